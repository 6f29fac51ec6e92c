// AI SDK's chat without a page: the class that `useChat` stands on, and its own transport.
// Its argument is a list of actions; what the chat has come to is printed at the end.
import { existsSync, writeFileSync } from "node:fs";
import {
  AbstractChat,
  DefaultChatTransport,
  lastAssistantMessageIsCompleteWithApprovalResponses,
  lastAssistantMessageIsCompleteWithToolCalls,
} from "ai";

const { url, headers, id, body, single, automatic, actions } = JSON.parse(process.argv[2]);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const tried = [];
const transport = new DefaultChatTransport({
  api: url,
  headers,
  body,
  fetch: async (...request) => {
    const response = await fetch(...request);
    tried.push({
      status: response.status,
      cache: response.headers.get("x-cache"),
      run: response.headers.get("x-plateau-run"),
    });
    return response;
  },
  ...(single && {
    prepareSendMessagesRequest: ({ id, messages, body, trigger }) => ({
      body: { ...body, id, trigger, message: messages.at(-1) },
    }),
  }),
});

class Chat extends AbstractChat {
  constructor(messages = []) {
    const state = {
      status: "ready",
      error: undefined,
      messages,
      pushMessage: (message) => state.messages.push(message),
      popMessage: () => state.messages.pop(),
      replaceMessage: (at, message) => {
        state.messages[at] = message;
      },
      snapshot: (thing) => structuredClone(thing),
    };
    const called = [];
    const datas = [];
    const whens = {
      tools: lastAssistantMessageIsCompleteWithToolCalls,
      approvals: lastAssistantMessageIsCompleteWithApprovalResponses,
    };
    super({
      id,
      state,
      transport,
      onToolCall: ({ toolCall }) => {
        called.push(toolCall.toolCallId);
      },
      onData: (part) => datas.push(part),
      onFinish: ({ finishReason, isDisconnect }) => {
        this.finish = { reason: finishReason, isDisconnect };
      },
      sendAutomaticallyWhen: whens[automatic],
    });
    Object.assign(this, { called, datas });
  }

  get text() {
    return JSON.stringify(this.messages);
  }
}

let chat = new Chat();
const act = {
  send: (text) => {
    chat.sendMessage({ text });
  },
  message: (message) => {
    chat.sendMessage(message);
  },
  touch: (path) => writeFileSync(path, ""),
  stop: async () => {
    await chat.stop();
    const response = await fetch(`${url}/${id}/stop`, { method: "POST", headers });
    tried.push({ status: response.status });
  },
  // A page that is loaded anew knows what was said before, and nothing of what is on its way.
  reload: () => {
    const asked = chat.messages.findLastIndex((message) => message.role === "user");
    chat = new Chat(structuredClone(chat.messages.slice(0, asked + 1)));
    chat.resumeStream();
  },
  // The same page, behind a connection that broke.
  resume: () => {
    chat.resumeStream();
  },
  regenerate: () => {
    chat.regenerate();
  },
  result: (tool, toolCallId, output) => {
    chat.addToolOutput({ tool, toolCallId, output });
  },
  // To the first that is asked for.
  approve: (approved, reason) => {
    const asked = chat.messages.at(-1).parts.find(({ state }) => state === "approval-requested");
    chat.addToolApprovalResponse({ id: asked.approval.id, approved, reason });
  },
};

for (const [name, ...given] of actions) {
  if (["until", "settled", "answered", "exists"].includes(name)) {
    const isSo = {
      until: () => chat.text.includes(given[0]),
      settled: () => ["ready", "error"].includes(chat.status),
      // So many requests of the page have been.
      answered: () => tried.length >= given[0],
      exists: () => existsSync(given[0]),
    }[name];
    for (let left = 1500; left > 0 && !isSo(); left -= 1) await pause(10);
    if (!isSo()) throw new Error(`${name} ${given}: ${chat.status} ${chat.text}`);
  } else {
    await act[name](...given);
    await pause(10);
  }
}
console.log(
  JSON.stringify({
    messages: chat.messages,
    status: chat.status,
    error: chat.error?.message,
    finish: chat.finish,
    called: chat.called,
    datas: chat.datas,
    tried,
  }),
);
process.exit(0);
