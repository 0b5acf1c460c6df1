// Package audit is the proof: record bytes to leaf hash, leaf hashes to tree, and the verifier that finds what was changed.
//
// A record is one JSON line, stored verbatim and hashed as stored:
//
//	{"v":1,"stream":"session/s1","seq":7,"time":"2026-01-02T15:04:05.000000Z","caller":{"did":"did:mesh:ann","role":"agent","via":"stdio"},"trace":"00-…-…-01","prev":"<64 hex>","events":[{"type":"action.admitted",…}]}
//
// "prev" is the RFC 6962 leaf hash of the stream's record before it, zeros for the first; the leaf hashes of a stream are the
// leaves of an RFC 6962 tree, whose root at the session's end is its summary hash (SPEC §8). What a call was given and answered
// stands beside the record in a payload of parts; the record carries a salted commitment to each, under the part's name.
//
// A Verifier is fed with a whole log in commit order and names the first Fault, if there is one. Of the kernels' events it
// knows four, by the tag that stands at the front of each event:
//
//	in session/<id>  {"type":"session.created",…}    in its first record
//	                 {"type":"session.archived",…}   in its last
//	in system        {"type":"audit.opened","session":"<id>",…}
//	                 {"type":"audit.committed","session":"<id>","records":N,"summary":"<root of its tree>",…}
//
// Everything here is a pure value or a fold over values. It is what a third-party verifier imports, so it imports nothing of
// ours.
package audit
