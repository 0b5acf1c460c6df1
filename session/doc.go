// Package session is the kernel of one session: a deterministic state machine whose commands are decided and whose records
// are folded.
//
//	Decide(state, env, command) → Outcome    what is answered, and the events that are to be recorded; changes nothing
//	Apply(state, record)        → effects    what the record makes of the state, and what is owed because of it; cannot fail
//
// State is data; what a decision may know beyond it comes in Env. The same Apply serves the live path and recovery.
// There is no clock, lock, disk or randomness here: package hypervisor holds the live handle and is the only caller of Decide.
//
// One file per concept, top to bottom as it happens: lifecycle.go, join.go, act.go (admission), refusal.go, approval.go,
// vote.go, outcome.go, key.go. It imports agent, policy, action, ring, and audit for hashes and the writer of events.
package session
