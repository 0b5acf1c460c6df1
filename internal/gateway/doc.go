// Package gateway is the MCP door: the server an agent talks to, the upstream servers it fronts, and the strict wire between.
//
// A message that came in, a line or a body, is checked once (strict.go), before any library decodes it; arguments are decoded
// once, by the session (action.DecodeArgs), and what is decided on is what is forwarded, made anew from the decoded value.
//
// An Upstream is one MCP server: a child process, or an endpoint over Streamable HTTP. A Front stands upstreams before one agent
// in one session: it lists and pins their tools, puts every call and every read (resources, prompts, completion) to the Session,
// which decides, and a Server answers the agent with what came of it. A Hub is many upstreams behind one address for many agents:
// per agent and session a seat, with its own clients, whose sessions no other seat can name, and its own connections (berths),
// which are made at their first use and ended when idle. What an upstream asks or tells during a call (asking.go) reaches the
// client whose call it is, or nobody; each question is an action of that agent's (questions.go). What resources clients are
// subscribed to, and who is told of them, is watch.go, subscribe.go and tell.go: the upstream, the action, the client.
//
// What is hidden in a definition or result, or drives a terminal, is replaced before a model sees it (neutral.go); pins are of
// the definition as the server wrote it.
//
// The package decides nothing, records nothing and knows no ring: that is the Session's. It does not forward elicitation by
// URL, tools for an agent's model, or an agent's own _meta; see docs/rough-edges.md.
//
// It may import hypervisor, session, action and policy, the MCP SDK, jsonschema-go, go-json-experiment and x/oauth2.
package gateway
