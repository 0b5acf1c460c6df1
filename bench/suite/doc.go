// Package suite measures the hypervisor: every row of docs/design.md "Speed", beside the shortest program on the same library
// that does the work without governing it. `hypervisor bench` prints its rows, and its Go benchmarks report the same ones.
//
// A machine is never quiet, so a row and what stands beside it run in turns, and their medians are compared, or all turns
// together where it is a rate. Figures of two runs are not to be compared; ratios are.
//
//	hypervisor bench --quick
//	go test -bench . ./bench/...
//
// Rate limits do not bound what is measured: the clock that the hypervisor is given runs a thousand times as fast as the
// machine's, so no agent's bucket is ever empty. Package suite may import every room.
package suite
