// Package sim is the simulator: tests alone. One goroutine, in virtual time, drives the shipped hypervisor by Step through a history
// that one number, the seed, decides: what the agents ask, in which order what waits is done, what fails and where the process dies.
// A history is judged by invariants, each with a name; each is shown to be able to fail by a build that is broken on purpose.
//
// How to run it and how to read a failure: docs/simulator.md. It is not a model: what it drives is the code that ships, over
// a store in memory. Real processes, disks and signals are internal/weather's.
package sim
