// Package api is what travels over /v1: the JSON of sessions, actions, approvals, decisions and errors, as docs/contract.md
// says it, and the version command's.
//
// Everything here is data. The package is for programs that talk to a hypervisor in Go without being part of one, so it
// imports none of the project's packages: DIDs, codes and hashes are strings here, and σ and ω decimals, as they are in JSON.
package api
