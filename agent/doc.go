// Package agent is the kernel of one agent's standing: what it is trusted with across all sessions, and why.
//
// Standing is moved only by ledger entries, each a record of the agent's own stream (SPEC §3); Decide and Apply have the shape
// of package session's. There is one kind of entry: σ set by an operator, at a join or by configuration. An agent without
// entries is a newcomer. It imports policy, ring, and audit for the writer of events.
package agent
