// Package reputation asks a reputation service over HTTP how it rates an agent and tells it what the agent's
// conduct brought it here (SPEC §9 "Reputation"; docs/reputation.md).
//
// It asks, remembers for a while, and leaves a service that does not answer alone for a while. It decides nothing: what a score
// makes of a standing is package agent's. It imports agent, audit, policy and ring.
package reputation
