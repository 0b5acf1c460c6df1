package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/bits"
)

// A Hash is a SHA-256 hash; in text, 64 lower-case hex digits. The zero Hash is the parent of a stream's first record.
type Hash [sha256.Size]byte

// ErrHash is returned for a text that is not 64 lower-case hex digits.
var ErrHash = errors.New("not a hash (64 lower-case hex digits)")

// String returns the hash as hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText returns the hash as hex.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads 64 lower-case hex digits, or returns ErrHash.
func (h *Hash) UnmarshalText(text []byte) (err error) {
	*h, err = ParseHash(text)
	return err
}

// ParseHash reads 64 lower-case hex digits, or returns ErrHash. One hash has one text: upper case is refused.
func ParseHash[T string | []byte](text T) (h Hash, err error) {
	if len(text) != hex.EncodedLen(len(h)) {
		return Hash{}, ErrHash
	}
	var bad byte
	for i := range h {
		high, low := nibbles[text[2*i]], nibbles[text[2*i+1]]
		bad |= high | low
		h[i] = high<<4 | low
	}
	if bad&notHex != 0 {
		return Hash{}, ErrHash
	}
	return h, nil
}

const notHex = 0x80

// nibbles holds the value of each lower-case hex digit, notHex for every other byte. Every record's prev passes through it.
var nibbles = func() (table [256]byte) {
	for i := range table {
		table[i] = notHex
	}
	for i, c := range []byte("0123456789abcdef") {
		table[c] = byte(i)
	}
	return table
}()

// The domain separators of RFC 6962 §2.1.
const (
	leafPrefix = 0x00
	nodePrefix = 0x01
)

// Leaf returns the RFC 6962 §2.1 leaf hash of a record's bytes: SHA-256(0x00 ‖ body).
func Leaf(body []byte) Hash {
	const onStack = 1024 // longer records cost one allocation
	var buf [1 + onStack]byte
	if len(body) <= onStack {
		buf[0] = leafPrefix
		n := copy(buf[1:], body)
		return sha256.Sum256(buf[:1+n])
	}
	h := sha256.New()
	h.Write([]byte{leafPrefix})
	h.Write(body)
	return Hash(h.Sum(nil))
}

func node(left, right Hash) Hash {
	var buf [1 + 2*sha256.Size]byte
	buf[0] = nodePrefix
	copy(buf[1:], left[:])
	copy(buf[1+sha256.Size:], right[:])
	return sha256.Sum256(buf[:])
}

// A Tree is an RFC 6962 Merkle tree of which only the right edge is kept: enough to add leaves and to tell the root.
// The zero Tree is empty. Copies made by assignment share memory.
type Tree struct {
	Size uint64 `json:"size"`
	Edge []Hash `json:"edge,omitempty"` // roots of the full subtrees, largest first; one for each bit set in Size
}

// Add appends a leaf hash: amortised one node hash.
func (t *Tree) Add(leaf Hash) {
	for n := t.Size; n&1 == 1; n >>= 1 {
		last := len(t.Edge) - 1
		leaf = node(t.Edge[last], leaf)
		t.Edge = t.Edge[:last]
	}
	t.Edge = append(t.Edge, leaf)
	t.Size++
}

// Root returns the Merkle tree hash (RFC 6962 §2.1). The root of the empty tree is SHA-256 of nothing.
func (t *Tree) Root() Hash {
	if t.Size == 0 {
		return sha256.Sum256(nil)
	}
	root := t.Edge[len(t.Edge)-1]
	for i := len(t.Edge) - 2; i >= 0; i-- {
		root = node(t.Edge[i], root)
	}
	return root
}

// Valid reports whether the tree's edge has the shape its size demands. A tree read from outside is checked with it first.
func (t *Tree) Valid() bool { return bits.OnesCount64(t.Size) == len(t.Edge) }
