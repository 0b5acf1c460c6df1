// Package ring is the arithmetic of trust: scores in whole millionths, thresholds, the four rings and what each ring may do.
//
// Everything here is a value. The package knows nothing of sessions, clocks or agents; package session says who is in
// which ring and why. It imports nothing of ours.
package ring
