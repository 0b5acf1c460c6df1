// Package address calls the http(s) addresses that an operator allows as actions (SPEC §5): a Book says which, and makes of each a
// tool that sends a call's arguments as JSON, signed, with an Idempotency-Key, to nobody but whom it is for.
//
// It decides nothing about who may: that is package session's, by the descriptor that the book gives an address. What it guards is
// where a call goes: an address is called only if an entry covers it, and a connection is made only to what is public or in the
// entry's own ranges, looked at after names were resolved, for each address that is tried and each redirect that is followed.
// It imports the hypervisor and action.
package address
