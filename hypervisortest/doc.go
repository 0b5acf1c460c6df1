// Package hypervisortest gives tests a ready hypervisor: in memory, driven step by step from the test's own goroutine, with a
// clock that stands still until it is moved and randomness from a seed, so that a run repeats exactly.
//
// It is for the tests of those who embed the hypervisor, and for our own. It imports the root package, policy, session and action.
package hypervisortest
