package audit_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/audit"
)

var parts = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) audit.Part {
	p := audit.Part{
		Name: rapid.StringN(0, -1, 255).Draw(t, "name"),
		Salt: [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "salt")),
	}
	if p.External = rapid.Bool().Draw(t, "external"); p.External {
		p.Outside = audit.Hash(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "outside"))
	} else {
		p.Bytes = rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
	}
	return p
}), 0, 5)

func TestAPayloadComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := parts.Draw(t, "parts")
		b := audit.AppendPayload(nil, want)
		got, err := audit.ParsePayload(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		for i := range want {
			if got[i].Commitment() != want[i].Commitment() {
				t.Fatalf("part %d has another commitment", i)
			}
		}
	})
}

// A payload that is cut off is either refused or shorter by whole parts.
func TestAPayloadCutShort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := parts.Draw(t, "parts")
		b := audit.AppendPayload(nil, all)
		cut := b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]
		got, err := audit.ParsePayload(cut)
		if err != nil {
			if !errors.Is(err, audit.ErrPayload) {
				t.Fatalf("error is not ErrPayload: %v", err)
			}
			return
		}
		if len(got) >= len(all) || !bytes.Equal(audit.AppendPayload(nil, all[:len(got)]), cut) {
			t.Fatalf("%d bytes of %d gave %d parts of %d", len(cut), len(b), len(got), len(all))
		}
	})
}

func TestAPartsNameHasABound(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a name of 256 bytes was written, as one of no bytes")
		}
	}()
	audit.AppendPayload(nil, []audit.Part{{Name: strings.Repeat("x", 256)}})
}

// Two different payloads never mean the same parts.
func FuzzParsePayload(f *testing.F) {
	args := audit.Part{Name: "args", Salt: [32]byte{1}, Bytes: []byte(`{}`)}
	result := audit.Part{Name: "result", Salt: [32]byte{2}, External: true, Outside: audit.Hash{3}}
	f.Add([]byte{})
	f.Add([]byte{1})
	f.Add([]byte{2})
	f.Add(audit.AppendPayload(nil, []audit.Part{args}))
	f.Add(audit.AppendPayload(nil, []audit.Part{result, args, {}}))
	f.Add(append(audit.AppendPayload(nil, []audit.Part{args}), 0xff))
	f.Fuzz(func(t *testing.T, b []byte) {
		parts, err := audit.ParsePayload(b)
		if err != nil {
			if !errors.Is(err, audit.ErrPayload) {
				t.Fatalf("error is not ErrPayload: %v", err)
			}
			return
		}
		if again := audit.AppendPayload(nil, parts); !bytes.Equal(again, b) {
			t.Fatalf("read   %x\nwrites %x", b, again)
		}
	})
}
