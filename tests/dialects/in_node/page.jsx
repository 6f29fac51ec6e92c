// A page with `useChat`, as its users write it; what it has is in its elements, for the tests.
// Its address says which chat it shows, of which service, and what goes with each question.
import { useChat } from "@ai-sdk/react";
import {
  DefaultChatTransport,
  lastAssistantMessageIsCompleteWithApprovalResponses,
  lastAssistantMessageIsCompleteWithToolCalls,
} from "ai";
import { useEffect, useRef } from "react";
import { createRoot } from "react-dom/client";

const asked = new URLSearchParams(location.search);
const id = asked.get("chat");
const api = `${asked.get("service")}/api/chat`;
const body = JSON.parse(asked.get("body"));
// What a page keeps of its chat: all that came before the answer which is on its way.
const kept = JSON.parse(localStorage.getItem(id) ?? "[]");

function Chat() {
  const tools = useRef([]);
  const chat = useChat({
    id,
    messages: kept,
    resume: true,
    transport: new DefaultChatTransport({ api, body }),
    sendAutomaticallyWhen: (last) =>
      lastAssistantMessageIsCompleteWithToolCalls(last) ||
      lastAssistantMessageIsCompleteWithApprovalResponses(last),
    onToolCall: ({ toolCall }) => {
      tools.current.push(toolCall.toolCallId);
      chat.addToolOutput({
        tool: toolCall.toolName,
        toolCallId: toolCall.toolCallId,
        output: `cold in ${toolCall.input.city}`,
      });
    },
  });
  const { messages, status, error } = chat;
  useEffect(() => {
    const last = messages.findLastIndex((message) => message.role === "user");
    localStorage.setItem(id, JSON.stringify(messages.slice(0, last + 1)));
  }, [messages]);
  const stop = async () => {
    chat.stop();
    await fetch(`${api}/${id}/stop`, { method: "POST" });
  };
  const approve = () => {
    for (const { state, approval } of messages.at(-1).parts) {
      if (state === "approval-requested") {
        chat.addToolApprovalResponse({ id: approval.id, approved: true });
      }
    }
  };
  return (
    <>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          chat.sendMessage({ text: event.target.elements.question.value });
        }}
      >
        <input id="question" name="question" />
        <button id="send">Send</button>
      </form>
      <button id="stop" onClick={stop}>Stop</button>
      <button id="regenerate" onClick={() => chat.regenerate()}>Regenerate</button>
      <button id="approve" onClick={approve}>Approve</button>
      <button id="resume" onClick={() => chat.resumeStream()}>Resume</button>
      <p id="status">{status}</p>
      <p id="error">{error?.message}</p>
      <p id="tools">{JSON.stringify(tools.current)}</p>
      <pre id="messages">{JSON.stringify(messages)}</pre>
    </>
  );
}

createRoot(document.body).render(<Chat />);
