// The types as a page uses them: what is wrong here is wrong for its users.
import { ask, cancel, conversation, finished, fold, follow, initial, PlateauError } from "plateau-client";
import { useAnswer, useConversation } from "plateau-client/react";

export async function core(): Promise<string> {
  const answer = await ask("https://a.example", { agent: "study", input: "x" }, { key: () => "k" });
  const handle = follow(answer.events_url, (state, event) => {
    if (finished(state)) console.log(state.text, event?.type);
    for (const part of state.parts) if (part.type === "source") console.log(part.url);
  }, { renew: async () => answer.events_url });
  handle.close();
  await cancel(answer);
  const said = await conversation("https://a.example", "c");
  // @ts-expect-error: an agent has to be named.
  await ask("https://a.example", { input: "x" });
  // @ts-expect-error: states are never changed.
  initial.text = "x";
  const error = new PlateauError({ title: "No." });
  return fold(initial, { type: "run.queued" }).text + said.messages.length + error.code;
}

export function Chat() {
  const chat = useConversation({ url: "/", agent: "support", conversation: "c" });
  const answer = useAnswer(null);
  return (
    <ul onClick={() => void chat.send("Hello.")}>
      {chat.messages.map((one) => <li key={one.id}>{one.text}{one.tools[0]?.name}</li>)}
      <li>{answer.text}{chat.error?.code}</li>
    </ul>
  );
}
