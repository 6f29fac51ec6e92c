// AI SDK over @ai-sdk/openai-compatible, as its users write it. What it has is printed as JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";

const asked = JSON.parse(process.argv[2]);
const provider = createOpenAICompatible({
  name: "plateau",
  baseURL: `${asked.url}/v1`,
  apiKey: asked.key,
  includeUsage: true,
});
const told = { text: "", thoughts: "", calls: [], finish: "", usage: null, error: "" };
const weather = tool({
  description: "The weather in a city",
  inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } } }),
  execute: async ({ city }) => `cold in ${city}`,
});
const options = {
  model: provider(asked.model),
  prompt: asked.text,
  maxRetries: 0,
  providerOptions: { plateau: asked.body },
  ...(asked.mode === "tools" && { tools: { weather }, stopWhen: stepCountIs(3) }),
};

const take = (step) => {
  told.text += step.text;
  told.thoughts += step.reasoningText ?? "";
  for (const { toolName, input } of step.toolCalls) told.calls.push([toolName, input]);
  told.finish = step.finishReason;
  told.usage = step.usage.outputTokens ?? told.usage;
};

try {
  if (asked.mode === "streamed") {
    const result = streamText({ ...options, onError: () => {} });
    for await (const part of result.fullStream) {
      if (part.type === "error") throw part.error;
      if (part.type === "text-delta") told.text += part.text;
      if (part.type === "reasoning-delta") told.thoughts += part.text;
      if (part.type === "finish") {
        told.finish = part.finishReason;
        told.usage = part.totalUsage.outputTokens ?? null;
      }
    }
  } else {
    for (const step of (await generateText(options)).steps) take(step);
  }
} catch (error) {
  told.error = `${error?.constructor?.name}: ${error?.message ?? JSON.stringify(error)}`;
}
console.log(JSON.stringify(told));
