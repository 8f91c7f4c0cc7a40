// OpenAI's package for Node: chats, streams, history, parsed answers, responses, errors.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const FRANCE = { role: "user", content: "What is the capital of France?" };
const ITALY = { role: "user", content: "What is the capital of Italy?" };
const ANSWER = "The capital of France is Paris.";

const said = await client.chat.completions.create({ model: "demo", messages: [FRANCE] });
assert.equal(said.choices[0].message.content, ANSWER);
console.log("chat:", ANSWER, said.usage.total_tokens, "tokens");

const history = [FRANCE, said.choices[0].message, ITALY];
const second = await client.chat.completions.create({ model: "demo", messages: history });
assert.equal(second.choices[0].message.content, "The capital of Italy is Rome.");
console.log("the conversation goes on:", second.choices[0].message.content);

const stream = client.chat.completions.stream({ model: "demo", messages: [FRANCE] });
const whole = await stream.finalMessage();
assert.equal(whole.content, ANSWER);
console.log("streamed: the same");

const City = z.object({ name: z.string().max(20) });
const parsed = await client.chat.completions.parse({
  model: "demo",
  messages: [{ role: "user", content: "Name a city." }],
  response_format: zodResponseFormat(City, "city"),
});
assert.equal(typeof parsed.choices[0].message.parsed.name, "string");
console.log("parsed: a name");

const response = await client.responses.create({ model: "demo", input: FRANCE.content });
assert.equal(response.output_text, ANSWER);
const next = await client.responses.create({
  model: "demo",
  input: ITALY.content,
  previous_response_id: response.id,
});
assert.equal(next.output_text, "The capital of Italy is Rome.");
console.log("responses:", response.output_text, next.output_text);

await assert.rejects(
  client.chat.completions.create({ model: "none", messages: [FRANCE] }),
  OpenAI.NotFoundError,
);
console.log("NotFoundError");
