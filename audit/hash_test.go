package audit_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/audit"
)

// The leaves and roots that the reference implementation of Certificate Transparency tests its tree with.
var referenceTree = []struct{ leaf, root string }{
	{"", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"},
	{"00", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"},
	{"10", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"},
	{"2021", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"},
	{"3031", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"},
	{"40414243", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"},
	{"5051525354555657", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"},
	{"606162636465666768696a6b6c6d6e6f", "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"},
}

func TestTreeGivesTheReferenceRoots(t *testing.T) {
	var tree audit.Tree
	for i, c := range referenceTree {
		leaf, err := hex.DecodeString(c.leaf)
		if err != nil {
			t.Fatal(err)
		}
		tree.Add(audit.Leaf(leaf))
		if got := tree.Root().String(); got != c.root {
			t.Errorf("root of %d leaves is %s, want %s", i+1, got, c.root)
		}
	}
}

// RFC 6962 §2.1: "The hash of an empty list is the hash of an empty string: MTH({}) = SHA-256()."
func TestRootOfNothing(t *testing.T) {
	var tree audit.Tree
	if want := audit.Hash(sha256.Sum256(nil)); tree.Root() != want {
		t.Errorf("root is %s, want %s", tree.Root(), want)
	}
}

// RFC 6962 §2.1: "The hash of a list with one entry (also known as a leaf hash) is: MTH({d(0)}) = SHA-256(0x00 || d(0))."
func TestLeafIsPrefixedWithZero(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.SliceOfN(rapid.Byte(), -1, 3000).Draw(t, "d")
		want := audit.Hash(sha256.Sum256(append([]byte{0}, d...)))
		var tree audit.Tree
		tree.Add(audit.Leaf(d))
		if audit.Leaf(d) != want || tree.Root() != want {
			t.Fatalf("leaf is %s, root of one leaf %s, want %s", audit.Leaf(d), tree.Root(), want)
		}
	})
}

// The longest leaf that needs no allocation, and its neighbours.
func TestLeafAndCommitmentAreTheSameOnAndOffTheStack(t *testing.T) {
	for _, n := range []int{0, 1, 1023, 1024, 1025, 100_000} {
		b := []byte(strings.Repeat("x", n))
		if want := audit.Hash(sha256.Sum256(append([]byte{0}, b...))); audit.Leaf(b) != want {
			t.Errorf("leaf of %d bytes is %s, want %s", n, audit.Leaf(b), want)
		}
		salt := [32]byte{1, 2, 3}
		if want := audit.Hash(sha256.Sum256(append(salt[:], b...))); audit.Commit(salt, b) != want {
			t.Errorf("commitment to %d bytes is %s, want %s", n, audit.Commit(salt, b), want)
		}
	}
}

// RFC 6962 §2.1: "Note that we do not require the length of the input list to be a power of two." A tree that doubles its
// last leaf instead, as some did, gives both lists one root.
func TestRootTellsAListFromTheOneWithItsLastLeafTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		leaves := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 4), 1, 20).Draw(t, "leaves")
		var tree audit.Tree
		for _, d := range leaves {
			tree.Add(audit.Leaf(d))
		}
		before := tree.Root()
		for range rapid.IntRange(1, 8).Draw(t, "times") {
			tree.Add(audit.Leaf(leaves[len(leaves)-1]))
			if tree.Root() == before {
				t.Fatalf("root of %d leaves stayed", tree.Size)
			}
		}
	})
}

// hashes is tlog's storage of a tree.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var got []tlog.Hash
	for _, i := range indexes {
		got = append(got, h[i])
	}
	return got, nil
}

// Go's checksum database is the second implementation.
func TestTreeAgreesWithTheChecksumDatabase(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 600).Draw(t, "leaves")
		var tree audit.Tree
		var stored hashes
		for i := range n {
			data := []byte{byte(i), byte(i >> 8)}
			tree.Add(audit.Leaf(data))
			more, err := tlog.StoredHashes(int64(i), data, stored)
			if err != nil {
				t.Fatal(err)
			}
			stored = append(stored, more...)
		}
		want, err := tlog.TreeHash(int64(n), stored)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			want = tlog.Hash(sha256.Sum256(nil)) // where tlog deviates from the RFC
		}
		if got := tree.Root(); got != audit.Hash(want) || tree.Size != uint64(n) {
			t.Fatalf("root of %d leaves is %s, want %x", n, got, want)
		}
	})
}

func TestATreeGoesOnFromItsJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tree audit.Tree
		for i := range rapid.IntRange(0, 200).Draw(t, "leaves") {
			tree.Add(audit.Leaf([]byte{byte(i)}))
		}
		b, err := json.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		var back audit.Tree
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if !tree.Valid() || !back.Valid() || back.Size != tree.Size || back.Root() != tree.Root() {
			t.Fatalf("%s came back as %+v", b, back)
		}
		for i := range rapid.IntRange(0, 200).Draw(t, "more") {
			tree.Add(audit.Leaf([]byte{byte(i)}))
			back.Add(audit.Leaf([]byte{byte(i)}))
		}
		if back.Root() != tree.Root() {
			t.Fatalf("after more leaves the roots are %s and %s", back.Root(), tree.Root())
		}
	})
}

func TestATreeOfAWrongShapeIsNotValid(t *testing.T) {
	for _, tree := range []audit.Tree{{Size: 1}, {Edge: make([]audit.Hash, 1)}, {Size: 3, Edge: make([]audit.Hash, 1)}, {Size: 4, Edge: make([]audit.Hash, 3)}} {
		if tree.Valid() {
			t.Errorf("size %d with %d roots is valid", tree.Size, len(tree.Edge))
		}
	}
}

func TestAHashHasOneText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := audit.Hash(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "h"))
		text := h.String()
		if back, err := audit.ParseHash(text); err != nil || back != h || text != hex.EncodeToString(h[:]) {
			t.Fatalf("%s came back as %s, %v", text, back, err)
		}
		at, c := rapid.IntRange(0, len(text)-1).Draw(t, "at"), rapid.Byte().Draw(t, "c")
		other := text[:at] + string(rune(c)) + text[at+1:]
		switch back, err := audit.ParseHash(other); {
		case strings.IndexByte("0123456789abcdef", c) < 0:
			if !errors.Is(err, audit.ErrHash) {
				t.Fatalf("%q was read as %s, %v", other, back, err)
			}
		case back.String() != other:
			t.Fatalf("%q was read as %s, %v", other, back, err)
		}
	})
	good := strings.Repeat("a", 64)
	for _, bad := range []string{"", good[1:], good + "a", strings.ToUpper(good), " " + good[1:]} {
		if _, err := audit.ParseHash([]byte(bad)); !errors.Is(err, audit.ErrHash) {
			t.Errorf("ParseHash(%q) gave %v", bad, err)
		}
	}
}

func BenchmarkLeaf(b *testing.B) {
	body := slices.Repeat([]byte("x"), 600)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		audit.Leaf(body)
	}
}

func BenchmarkTreeAdd(b *testing.B) {
	leaf := audit.Leaf(nil)
	var tree audit.Tree
	b.ReportAllocs()
	for b.Loop() {
		tree.Add(leaf)
	}
}
