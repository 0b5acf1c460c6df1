// Package policy is the vocabulary of a decision: who asks (DID, Role, Caller), what was answered (Decision, Code), and the
// one question put to an operator's rules (Rules).
//
// Everything here is a value or an interface; how rules are written is package internal/cel's affair. It imports action and
// ring only.
package policy
