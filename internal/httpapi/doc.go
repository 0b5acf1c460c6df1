// Package httpapi is /v1: HTTP and JSON in front of a hypervisor, on whatever listener it is served, and the control socket of
// a data directory.
//
// A request is decoded strictly, its caller is found out from the listener or its token, a method of package hypervisor is
// called with that caller, and what comes back is written: the package decides nothing. One function turns errors into
// statuses. docs/contract.md is the page it is written from.
//
// It may import hypervisor and what that is made of, internal/auth, internal/config and api. It serves no MCP (internal/gateway),
// and whose a token is it asks internal/auth.
package httpapi
