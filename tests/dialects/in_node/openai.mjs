// OpenAI's own package for Node, as its users write it. What it has is printed as JSON.
import OpenAI from "openai";

const asked = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL: `${asked.url}/v1`, apiKey: asked.key, maxRetries: 0, timeout: 30_000 });
const told = { text: "", thoughts: "", calls: [], finish: "", usage: null, error: "" };
const tools = [
  {
    type: "function",
    function: {
      name: "weather",
      description: "The weather in a city",
      parameters: { type: "object", properties: { city: { type: "string" } } },
    },
  },
];

const take = ({ choices: [choice], usage }) => {
  told.text += choice.message.content ?? "";
  told.thoughts += choice.message.reasoning_content ?? "";
  for (const { function: called } of choice.message.tool_calls ?? []) {
    told.calls.push([called.name, JSON.parse(called.arguments)]);
  }
  told.finish = choice.finish_reason;
  told.usage = usage?.completion_tokens ?? told.usage;
  return choice.message;
};

const messages = [{ role: "user", content: asked.text }];
const body = { model: asked.model, messages, ...asked.body };
try {
  if (asked.mode === "streamed") {
    const stream = await client.chat.completions.create({
      ...body,
      stream: true,
      stream_options: { include_usage: true },
    });
    for await (const { choices, usage } of stream) {
      told.usage = usage?.completion_tokens ?? told.usage;
      for (const { delta, finish_reason } of choices) {
        told.text += delta.content ?? "";
        told.thoughts += delta.reasoning_content ?? "";
        told.finish = finish_reason ?? told.finish;
      }
    }
  } else if (asked.mode === "tools") {
    const called = take(await client.chat.completions.create({ ...body, tools }));
    messages.push(called);
    for (const { id, function: { arguments: given } } of called.tool_calls) {
      const content = `cold in ${JSON.parse(given).city}`;
      messages.push({ role: "tool", tool_call_id: id, content });
    }
    take(await client.chat.completions.create({ ...body, tools }));
  } else {
    take(await client.chat.completions.create(body));
  }
} catch (error) {
  told.error = `${error.constructor.name}: ${error.message}`;
}
console.log(JSON.stringify(told));
