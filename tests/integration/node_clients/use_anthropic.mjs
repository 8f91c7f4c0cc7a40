// Anthropic's package for Node: messages, streams, history, counts, errors.

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const baseURL = process.argv[2].replace(/\/v1$/, "");
const client = new Anthropic({ baseURL, apiKey: "none", maxRetries: 0 });
const FRANCE = { role: "user", content: "What is the capital of France?" };
const ITALY = { role: "user", content: "What is the capital of Italy?" };
const ANSWER = "The capital of France is Paris.";
const asked = { model: "demo", max_tokens: 64 };

const said = await client.messages.create({ ...asked, messages: [FRANCE] });
assert.equal(said.content[0].text, ANSWER);
assert.equal(said.stop_reason, "end_turn");
console.log("messages:", ANSWER, said.usage.output_tokens, "tokens");

const whole = await client.messages.stream({ ...asked, messages: [FRANCE] }).finalMessage();
assert.equal(whole.content[0].text, ANSWER);
console.log("streamed: the same");

const history = [FRANCE, { role: "assistant", content: whole.content }, ITALY];
const second = await client.messages.create({ ...asked, messages: history });
assert.equal(second.content[0].text, "The capital of Italy is Rome.");
console.log("the conversation goes on:", second.content[0].text);

const counted = await client.messages.countTokens({ model: "demo", messages: [FRANCE] });
assert.equal(counted.input_tokens, said.usage.input_tokens + said.usage.cache_read_input_tokens);
console.log("countTokens says the same");

await assert.rejects(
  client.messages.create({ ...asked, model: "none", messages: [FRANCE] }),
  Anthropic.NotFoundError,
);
console.log("NotFoundError");
