// A chat, as its users write it.
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { useConversation } from "plateau-client/react";

const { options, keys, ...asked } = Object.fromEntries(new URLSearchParams(location.search));
// From the back end of the page, which knows who is logged in.
const key = keys && (async () => (await fetch(keys)).text());
const shown = {
  text: ({ text }) => <p className="text">{text}</p>,
  reasoning: ({ text }) => <details><summary>Thoughts</summary>{text}</details>,
  "tool.call": ({ name, output, error }) => <p className="tool">{name}: {JSON.stringify(error ?? output)}</p>,
  source: ({ url, title }) => <a href={url}>{title}</a>,
  "input.request": (part, chat) => <button type="button" onClick={() => chat.approve(part)}>{part.message}</button>,
};
function Chat() {
  const chat = useConversation({ ...asked, key, options: JSON.parse(options) });
  const send = ({ target }) => (chat.send(target.text.value), target.reset());
  return <form onSubmit={(event) => (event.preventDefault(), send(event))} data-status={chat.status}>
    {chat.messages.map(({ id, role, parts, status }) => <section key={id} className={role} data-status={status}>
      {parts.map((part, at) => <div key={at}>{shown[part.type]?.(part, chat)}</div>)}
    </section>)}
    <p role="alert">{chat.error?.title ?? chat.error?.message}</p>
    <input name="text" aria-label="Question" />
    <button>Send</button>
    <button type="button" onClick={chat.stop}>Stop</button>
    <button type="button" onClick={chat.regenerate}>Again</button>
  </form>;
}
createRoot(document.body).render(<StrictMode><Chat /></StrictMode>);
