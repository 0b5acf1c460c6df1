// Package watcher asks a drift service over HTTP how far an agent has moved from what it claims (SPEC §9 "Drift"; docs/drift.md).
//
// It asks when what it knows is old, and leaves a service that does not answer alone for a while. It decides nothing: what a distance
// means is package drift's, and what follows package session's. It imports session, drift, policy and ring.
package watcher
