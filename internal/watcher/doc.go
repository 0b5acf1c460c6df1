// Package watcher asks a drift service over HTTP how far an agent has moved from what it claims (SPEC §9 "Drift"; docs/drift.md).
//
// When it asks, and what an answer says, is here; how it asks and leaves alone is package service's. It decides nothing: what a
// distance means is package drift's, and what follows package session's. It imports service, session, drift, policy and ring.
package watcher
