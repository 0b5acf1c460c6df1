// Package agent is the kernel of one agent's standing: what it is trusted with across all sessions, and why.
//
// Standing is moved only by ledger entries, each a record of the agent's own stream (SPEC §3); Decide and Apply have the shape
// of package session's. An entry is an act of an operator (SetSigma, Reinstate, Slash), the report of a service (Report), or
// what a session owes the agent (Enter): σ and the risk after it follow from those before and from the entry alone. An agent
// without entries is a newcomer. A session that is told again sends the same number again, and nothing moves twice. It imports
// policy, ring, and audit for the writer of events.
package agent
