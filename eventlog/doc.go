// Package eventlog is the contract between the hypervisor and a disk: an append-only log of records in many streams, beside
// it blobs and snapshots, and the committer that groups the records of many sessions into one transaction.
//
// A backend implements Store and passes eventlogtest.Run; memlog and sqlitelog do. Stores and the committer are handles,
// safe for concurrent use. The package imports audit only and knows nothing of what a record says.
package eventlog
