package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// A Part is bytes a record speaks of without holding them: a call's arguments, its result, a session's key.
// The record carries Commitment; redaction drops the part and every proof still verifies (SPEC §8).
type Part struct {
	Name     string // at most 255 bytes
	Salt     [32]byte
	Bytes    []byte
	External bool // the bytes stand in the store's blobs under Commitment's text, and Bytes is empty here
	Outside  Hash // the commitment, where External
}

// MaxInline bounds the bytes of a part that stands beside its record; a larger one is a blob of its own.
const MaxInline = 64 << 10

// Commit returns SHA-256(salt ‖ bytes).
func Commit(salt [32]byte, b []byte) Hash {
	h := sha256.New()
	h.Write(salt[:])
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
	if len(b) == 0 || b[0] != payloadVersion {
		return nil, fmt.Errorf("%w: version", ErrPayload)
	}
	b = b[1:]
	var parts []Part
	take := func(n int) []byte {
		if n < 0 || n > len(b) {
			return nil
		}
		head := b[:n:n]
		b = b[n:]
		return head
	}
	for len(b) > 0 {
		var p Part
		name := take(1 + int(b[0]))
		salt := take(len(p.Salt))
		flag := take(1)
		if name == nil || salt == nil || flag == nil || flag[0] > 1 {
			return nil, fmt.Errorf("%w: part %d is cut short", ErrPayload, len(parts))
		}
		p.Name, p.Salt, p.External = string(name[1:]), [32]byte(salt), flag[0] == 1
		if p.External {
			outside := take(len(p.Outside))
			if outside == nil {
				return nil, fmt.Errorf("%w: part %d is cut short", ErrPayload, len(parts))
			}
			p.Outside = Hash(outside)
			parts = append(parts, p)
			continue
		}
		size := take(4)
		if size == nil {
			return nil, fmt.Errorf("%w: part %d is cut short", ErrPayload, len(parts))
		}
		if p.Bytes = take(int(binary.BigEndian.Uint32(size))); p.Bytes == nil {
			return nil, fmt.Errorf("%w: part %d is cut short", ErrPayload, len(parts))
		}
		parts = append(parts, p)
	}
	return parts, nil
}
