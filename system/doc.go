// Package system is the kernel of the node: which process runs it, which sessions were opened and how they ended, which tool
// definitions were pinned, which policies are in force.
//
// Decide and Apply have the shape of package session's. A session's opening and its summary stand here, so that a session
// that vanishes is missed (SPEC §8). It imports policy, and audit for hashes and the writer of events.
package system
