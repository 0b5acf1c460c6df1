// Package auth is who may come through a network door, and as whom.
//
// A token's secret is given out once and kept nowhere: the log has its SHA-256 (system.Token). A [Door] finds a token's bearer
// out, for /v1 as a caller and for /mcp as an agent in its session; it keeps the operator's own token in a file beside the log,
// and seats whoever comes without a token as the anonymous agent where the configuration has one. A [Listener] refuses requests
// that a browser was tricked into, by their Host and Origin: loopback is no authentication.
//
// It decides nothing about what a caller may do: the hypervisor does. It writes no answers: internal/httpapi and
// internal/gateway make statuses of its errors. It may import hypervisor and what that is made of.
package auth
