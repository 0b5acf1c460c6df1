// Package sqlitelog keeps a log in one SQLite file, DIR/log.db: the embedded default, because anybody can open it.
//
// Its shape is its speed (docs/decisions/010-table-in-commit-order.md). One append-only table stands in commit order, each
// row naming the row of its stream's record before it. The heads of all streams live in memory, behind a lock on DIR/lock
// that keeps a second process out; they are saved now and then with the row up to which they are, and the rows behind it are
// read again at Open. The index by stream is a follower, filled in bulk by Step; until a row is indexed, a stream is read
// back along the parents.
//
// A Store starts no goroutine of its own: whoever owns it loops over Step (database/sql keeps one per open database, which
// ends with Close). After an error that leaves it open what is on the disk, a Store closes its file inside; the next use
// opens it again, writes the whole WAL back and checks every head before anything read is believed.
//
// OpenReader reads a directory that somebody else may hold, changes nothing there, and believes nothing: it is for verifiers.
//
// The package imports eventlog and audit only, and modernc.org/sqlite through database/sql.
package sqlitelog
