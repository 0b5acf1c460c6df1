//go:build race

package saga_test

// raced says that the race detector watches, which makes the exploration slow and, in one goroutine, finds nothing.
const raced = true
