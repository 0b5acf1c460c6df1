// Package weather holds tests only: the program as it is built and shipped, as real processes, in bad weather. It is killed
// with SIGKILL under load, its disk is full, its clock is wrong, its tool server dies, and its system calls are read to see that
// nothing is acknowledged before it is on the disk.
//
// It is no place for code that anything else uses, and imports nothing of ours outside its tests. What can be tested with a
// function call is tested in that function's room; what a simulator can order is tested by the root package's.
//
// Long runs: go test ./internal/weather -run Killed -v -long. A run with the same -seed draws the same numbers; when each
// signal arrives is the machine's.
package weather
