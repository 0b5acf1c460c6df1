// Package store holds the baselines that the store is measured against, each the shortest program on the same library: one
// bare append-only table, and one raw file. Its benchmarks run them beside the store, in turns, and report ratios.
//
//	go test -bench . ./bench/store
package store
