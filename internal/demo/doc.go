// Package demo tells the hypervisor's story with real parts: agents that are MCP clients, one hypervisor on an embedded store,
// and a tool server in a process of its own for each of them.
//
// Every line of it is checked: a step that goes otherwise than told fails the demo. It imports what a user of the library
// would, the gateway, and the MCP SDK.
package demo
