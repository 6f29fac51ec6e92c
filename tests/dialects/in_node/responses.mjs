// Responses with OpenAI's package for Node: one that answers in the background, polled, then
// streamed and dropped at every event, and gone on with behind that event's number.
import OpenAI from "openai";

const asked = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL: `${asked.url}/v1`, apiKey: asked.key, maxRetries: 0, timeout: 30_000 });

const begun = await client.responses.create({
  model: asked.model,
  input: asked.text,
  background: true,
  ...asked.body,
});
const retrieve = (more) => client.responses.retrieve(begun.id, { stream: true, ...more });

class Read {
  constructor({ text = "", thoughts = "" } = {}) {
    Object.assign(this, { text, thoughts });
  }

  take(event) {
    if (event.type === "response.output_text.delta") this.text += event.delta;
    if (event.type === "response.reasoning_text.delta") this.thoughts += event.delta;
    this.status = event.response?.status ?? this.status;
    this.output = event.response?.output_text ?? this.output;
  }
}

const whole = new Read();
const behind = [];
for await (const event of await retrieve()) {
  whole.take(event);
  behind.push([event.sequence_number, { ...whole }]);
}
const rests = [];
for (const [starting_after, had] of behind) {
  const read = new Read(had);
  for await (const event of await retrieve({ starting_after })) read.take(event);
  rests.push([read.text, read.thoughts]);
}
const { status, output_text } = await client.responses.retrieve(begun.id);
console.log(JSON.stringify({ whole, numbers: behind.map(([number]) => number), rests, status, output_text }));
