// Package reputation asks a reputation service over HTTP how it rates an agent and tells it what the agent's
// conduct brought it here (SPEC §9 "Reputation"; docs/reputation.md).
//
// What it asks and what an answer means is here; how it asks, remembers and leaves alone is package service's. It decides nothing:
// what a score makes of a standing is package agent's. It imports service, agent, audit, policy and ring.
package reputation
