// Vercel's AI SDK: over chats, responses and Anthropic's messages, streamed, and an object.

import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText } from "ai";
import { z } from "zod";

const baseURL = process.argv[2];
const openai = createOpenAI({ baseURL, apiKey: "none" });
const compatible = createOpenAICompatible({
  name: "trireme",
  baseURL,
  apiKey: "none",
  supportsStructuredOutputs: true,
});
const anthropic = createAnthropic({ baseURL, apiKey: "none" });
const models = {
  "OpenAI's chats": openai.chat("demo"),
  "OpenAI's responses": openai.responses("demo"),
  "any chats": compatible("demo"),
  "Anthropic's messages": anthropic("demo"),
};
const FRANCE = { role: "user", content: "What is the capital of France?" };
const ITALY = { role: "user", content: "What is the capital of Italy?" };
const ANSWER = "The capital of France is Paris.";

for (const [name, model] of Object.entries(models)) {
  const asked = { model, maxRetries: 0, maxOutputTokens: 64 };
  const said = await generateText({ ...asked, messages: [FRANCE] });
  assert.equal(said.text, ANSWER);
  const history = [FRANCE, ...said.response.messages, ITALY];
  const second = await generateText({ ...asked, messages: history });
  assert.equal(second.text, "The capital of Italy is Rome.");
  const streamed = streamText({ ...asked, messages: [FRANCE] });
  assert.equal(await streamed.text, ANSWER);
  console.log(`${name}: ${said.text} ${second.text} streamed`);
}
const schema = z.object({ name: z.string().max(20) });
const { object } = await generateObject({
  model: compatible("demo"),
  schema,
  prompt: "Name a city.",
  maxRetries: 0,
});
assert.equal(typeof object.name, "string");
console.log("an object: a name");
