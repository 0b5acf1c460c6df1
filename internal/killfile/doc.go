// Package killfile keeps the kills in force in one small file of fixed size, so that a kill survives a crash with the disk full
// or the log refusing writes.
//
// It is not the record of a kill: that stands in the log. It imports policy, for what a kill is.
package killfile
