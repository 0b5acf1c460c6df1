// Package gateway is the MCP door: the server an agent talks to, the upstream servers it fronts, and the strict wire between.
//
// A line that came in is checked once (strict.go), before any library decodes it; arguments are decoded once, by the session
// (action.DecodeArgs), and what is decided on is what is forwarded, made anew from the decoded value. An Upstream is one MCP server as a child
// process, started again when it dies. A Server is one agent's view of it: it lists tools as the upstream defines them,
// passes every call to a Session, which decides, and answers a refusal as a tool result.
//
// The package decides nothing, records nothing and knows no ring: that is the Session's. It does not forward resources,
// prompts, completion, sampling, elicitation or an agent's own _meta; see docs/rough-edges.md.
//
// It may import hypervisor, session, action and policy, the MCP SDK, jsonschema-go and go-json-experiment.
package gateway
