package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// A Part is bytes a record speaks of without holding them: a call's arguments, its result, a session's key.
// The record carries `"name":"<commitment>"` in one of its events; redaction drops the part and every proof still verifies
// (SPEC §8).
type Part struct {
	Name     string // at most 255 bytes; the record carries the commitment under this key
	Salt     [32]byte
	Bytes    []byte
	External bool // the bytes stand in the store's blobs under Commitment's text, and Bytes is empty here
	Outside  Hash // the commitment, where External
}

// MaxInline bounds the bytes of a part that stands beside its record; a larger one is a blob of its own.
const MaxInline = 64 << 10

// Commit returns SHA-256(salt ‖ bytes).
func Commit(salt [32]byte, b []byte) Hash {
	const onStack = 1024 // longer parts cost an allocation
	var buf [len(salt) + onStack]byte
	n := copy(buf[:], salt[:])
	if len(b) <= onStack {
		n += copy(buf[n:], b)
		return sha256.Sum256(buf[:n])
	}
	h := sha256.New()
	h.Write(buf[:n])
	h.Write(b)
	return Hash(h.Sum(nil))
}

// Commitment returns what the record says of the part.
func (p *Part) Commitment() Hash {
	if p.External {
		return p.Outside
	}
	return Commit(p.Salt, p.Bytes)
}

const payloadVersion = 1

// AppendPayload appends the encoding of parts: a version byte, then for each part its name, salt, a flag, and its bytes or,
// for an external part, its commitment.
func AppendPayload(dst []byte, parts []Part) []byte {
	dst = append(dst, payloadVersion)
	for i := range parts {
		p := &parts[i]
		if len(p.Name) > math.MaxUint8 {
			panic("audit: a payload part's name is over 255 bytes")
		}
		dst = append(dst, byte(len(p.Name)))
		dst = append(dst, p.Name...)
		dst = append(dst, p.Salt[:]...)
		if p.External {
			dst = append(dst, 1)
			dst = append(dst, p.Outside[:]...)
			continue
		}
		dst = append(dst, 0)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(p.Bytes)))
		dst = append(dst, p.Bytes...)
	}
	return dst
}

// ErrPayload is returned for bytes that are not an encoded payload.
var ErrPayload = errors.New("not a payload")

// ParsePayload reads what AppendPayload wrote. The parts' bytes alias b.
func ParsePayload(b []byte) ([]Part, error) {
	var parts []Part
	r := partReader{rest: b}
	var p Part
	for r.next(&p) {
		p.Name = string(r.name)
		parts = append(parts, p)
	}
	return parts, r.err
}

// A partReader reads a payload part by part without allocating.
type partReader struct {
	rest  []byte
	begun bool
	count int
	name  []byte // of the part read last
	err   error
}

// next reads a part into p, but for its name. It returns false at the end and on an error.
func (r *partReader) next(p *Part) bool {
	if !r.begun {
		if len(r.rest) == 0 || r.rest[0] != payloadVersion {
			r.err = fmt.Errorf("%w: version", ErrPayload)
			return false
		}
		r.begun, r.rest = true, r.rest[1:]
	}
	if len(r.rest) == 0 {
		return false
	}
	ok := r.read(p)
	if !ok {
		r.err = fmt.Errorf("%w: part %d is cut short", ErrPayload, r.count)
	}
	r.count++
	return ok
}

func (r *partReader) read(p *Part) bool {
	name := r.take(1 + int(r.rest[0]))
	salt := r.take(len(p.Salt))
	flag := r.take(1)
	if name == nil || salt == nil || flag == nil || flag[0] > 1 {
		return false
	}
	r.name = name[1:]
	*p = Part{Salt: [32]byte(salt), External: flag[0] == 1}
	if p.External {
		outside := r.take(len(p.Outside))
		if outside == nil {
			return false
		}
		p.Outside = Hash(outside)
		return true
	}
	size := r.take(4)
	if size == nil {
		return false
	}
	p.Bytes = r.take(int(binary.BigEndian.Uint32(size)))
	return p.Bytes != nil
}

// take returns the next n bytes, nil if there are fewer.
func (r *partReader) take(n int) []byte {
	if n < 0 || n > len(r.rest) { // below zero: a large size where int has 32 bits
		return nil
	}
	head := r.rest[:n:n]
	r.rest = r.rest[n:]
	return head
}
