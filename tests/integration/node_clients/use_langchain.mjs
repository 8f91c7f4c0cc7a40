// LangChain JS: chats, streamed and not, history, an answer of a schema.

import assert from "node:assert/strict";
import { AIMessage, HumanMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { z } from "zod";

const model = new ChatOpenAI({
  model: "demo",
  apiKey: "none",
  maxRetries: 0,
  configuration: { baseURL: process.argv[2] },
});
const FRANCE = new HumanMessage("What is the capital of France?");
const ANSWER = "The capital of France is Paris.";

const said = await model.invoke([FRANCE]);
assert.equal(said.content, ANSWER);
console.log("invoke:", said.content);

const history = [FRANCE, new AIMessage(said), new HumanMessage("What is the capital of Italy?")];
const second = await model.invoke(history);
assert.equal(second.content, "The capital of Italy is Rome.");
console.log("the conversation goes on:", second.content);

let text = "";
for await (const chunk of await model.stream([FRANCE])) text += chunk.content;
assert.equal(text, ANSWER);
console.log("stream: the same");

const City = z.object({ name: z.string().max(20) });
const city = await model
  .withStructuredOutput(City, { name: "city", method: "jsonSchema" })
  .invoke("Name a city.");
assert.equal(typeof city.name, "string");
console.log("withStructuredOutput: a name");
