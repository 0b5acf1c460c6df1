// Package config reads hypervisor.yaml: what to listen on, defaults for sessions, the upstream servers and what the operator
// says of their tools, agents and roles, and the operator's policies. docs/config.md says what each key means.
//
// It is strict, since a misspelt safeguard is none: an unknown key, a wrong type, a value out of range, a key said twice, a
// name that refers to nothing and a rule that does not compile are Faults, each with file, line and column, all of them at
// once and in file order. JSON is YAML, so a client's mcp.json can be pasted. Anchors, aliases, tags and merge keys are
// refused: a value stands where it is used.
//
// A Config is a plain value. The package starts and opens nothing but the files it reads, and is not where defaults of a
// session live: what the file does not say is left zero for package session. It may import internal/address, internal/cel, policy, action,
// ring and packs, whose texts it reads as it reads the operator's, and a YAML parser.
package config
