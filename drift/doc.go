// Package drift measures how far what an agent does has moved from what it claims to do, as the distance of two embeddings
// (SPEC §9 "Drift").
//
// It is pure, and exact: components are whole billionths and the distance is whole millionths, rounded down, the same on every
// machine. What follows from a distance is package session's. It imports package ring only.
package drift
