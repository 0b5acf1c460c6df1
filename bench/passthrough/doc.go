// Package passthrough is the baseline that the gateway is measured against: the shortest MCP proxy on the same SDK, which
// passes every call on and governs nothing.
package passthrough
