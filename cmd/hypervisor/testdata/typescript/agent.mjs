// agent.mjs: an agent on the TypeScript SDK, which does what it is told.
//
//   node agent.mjs URL < CALLS
//
// CALLS is a JSON list of calls, each {"name", "arguments"}. It connects to URL with the token in HYPERVISOR_AGENT_TOKEN, lists
// the tools, makes the calls one after the other, and prints {"tools": [NAME…], "results": [RESULT…]}.
import { text } from "node:stream/consumers";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const calls = JSON.parse(await text(process.stdin));
const agent = new Client({ name: "agent", version: "1.0.0" });
await agent.connect(new StreamableHTTPClientTransport(new URL(process.argv[2]), {
  requestInit: { headers: { Authorization: `Bearer ${process.env.HYPERVISOR_AGENT_TOKEN}` } },
}));
const tools = [];
for (let cursor, first = true; first || cursor; first = false) {
  const page = await agent.listTools({ cursor });
  tools.push(...page.tools.map((tool) => tool.name));
  cursor = page.nextCursor;
}
const results = [];
for (const call of calls) results.push(await agent.callTool(call));
await agent.close();
console.log(JSON.stringify({ tools, results }));
