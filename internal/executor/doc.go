// Package executor does what state owes: calls to the outside, what one stream must tell another, and deadlines.
//
// An Executor runs tasks and Timers fire keys; both start no goroutine outside Run. Step does one thing from the caller's
// goroutine, so a simulator can drive the shipped code in a seeded order. The package knows nothing of sessions; it imports
// nothing of ours.
package executor
