// Package memlog keeps a log in memory: maps and one mutex. It is the reference that other stores are compared with, and
// what tests and hypervisortest run on.
//
// It is a handle, safe for concurrent use. It survives nothing: "durable" here means "in the map", and Close forgets all.
// It imports eventlog and audit only.
package memlog
