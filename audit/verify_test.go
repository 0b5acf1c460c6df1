package audit_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/audit"
)

func TestAnUntouchedLogVerifies(t *testing.T) {
	b := smallBook()
	for n := range len(b.log) + 1 { // with every head anybody may have written down
		sum, err := verify(b.log, &audit.Verifier{Blobs: b.blobs, Head: b.head(n)})
		if err != nil {
			t.Fatalf("head of %d records: %v", n, err)
		}
		whole := b.head(len(b.log))
		if want := (audit.Summary{Sessions: 5, Open: 3, Records: whole.Records, Root: whole.Root}); sum != want {
			t.Fatalf("summary is %+v, want %+v", sum, want)
		}
	}
}

// A crash may end the log behind any record: no prefix of an honest log is at fault.
func TestEveryPrefixOfALogVerifies(t *testing.T) {
	b := smallBook()
	for n := range b.log {
		if _, err := verify(b.log[:n], &audit.Verifier{Blobs: b.blobs}); err != nil {
			t.Errorf("first %d records: %v", n, err)
		}
	}
}

// SPEC §8: "they can be redacted and collected, and proofs still verify".
func TestARedactedPayloadIsNoFault(t *testing.T) {
	b := smallBook()
	log := copyLog(b.log)
	for i := range log {
		log[i].Payload = nil
	}
	if _, err := verify(log, &audit.Verifier{Blobs: b.blobs}); err != nil {
		t.Errorf("payloads redacted: %v", err)
	}
	if _, err := verify(b.log, &audit.Verifier{Blobs: blobs{}}); err != nil {
		t.Errorf("blobs redacted: %v", err)
	}
}

// wantFault checks that err is a fault in stream at seq, or at one of the others where the place cannot be known better.
func wantFault(t *testing.T, what string, err error, stream string, seqs ...uint64) {
	t.Helper()
	fault, ok := errors.AsType[*audit.Fault](err)
	switch {
	case !ok:
		t.Errorf("%s: got %v, want a fault in %s %v", what, err, stream, seqs)
	case fault.Stream != stream || len(seqs) > 0 && !slices.Contains(seqs, fault.Seq):
		t.Errorf("%s: fault is told of %q %d (%s), want %s %v", what, fault.Stream, fault.Seq, fault.What, stream, seqs)
	case fault.What == "":
		t.Errorf("%s: fault says nothing", what)
	}
}

// SPEC §8: "A verifier reports any change …, and where."
func TestEveryFlippedByteIsFoundWhereItIs(t *testing.T) {
	b := smallBook()
	for i, honest := range b.log {
		flip := func(field string, n int, change func(r *audit.Stored, at int)) {
			for at := range n {
				log := slices.Clone(b.log)
				change(&log[i], at)
				_, err := verify(log, &audit.Verifier{Blobs: b.blobs})
				wantFault(t, fmt.Sprintf("%s of record %d, byte %d", field, i, at), err, honest.Stream, honest.Seq)
			}
		}
		flip("body", len(honest.Body), func(r *audit.Stored, at int) { r.Body = flipped(r.Body, at) })
		flip("hash", len(honest.Hash), func(r *audit.Stored, at int) { r.Hash[at] ^= 1 })
		flip("stream", len(honest.Stream), func(r *audit.Stored, at int) { r.Stream = string(flipped([]byte(r.Stream), at)) })
		flip("seq", 8, func(r *audit.Stored, at int) { r.Seq ^= 1 << (8 * at) })
		flip("position", 8, func(r *audit.Stored, at int) { r.Position ^= 1 << (8 * at) })
		flip("payload", len(honest.Payload), func(r *audit.Stored, at int) { r.Payload = flipped(r.Payload, at) })
	}
}

func flipped(b []byte, at int) []byte {
	b = slices.Clone(b)
	b[at] ^= 1
	return b
}

// shown reports whether the log without a head shows what becomes of the stream's records behind log[:i]: there is a later
// one, or the system stream has its summary.
func shown(log []audit.Stored, stream string, i int) bool {
	for _, r := range log[i:] {
		if r.Stream == stream {
			return true
		}
	}
	return stream == "session/s1" || stream == "session/s2" // that is what ends in smallBook
}

// SPEC §8: "any … loss …, and where". The newest record of a stream that has not ended is shown lost by a head only.
func TestEveryLostRecordIsFoundWhereItWas(t *testing.T) {
	b := smallBook()
	for i, lost := range b.log {
		what := fmt.Sprintf("%s %d lost", lost.Stream, lost.Seq)
		log := slices.Delete(slices.Clone(b.log), i, i+1)
		if i < len(log) {
			if _, err := verify(log, &audit.Verifier{}); err == nil {
				t.Errorf("%s, its position left open: no fault", what)
			} else if shown(b.log, lost.Stream, i+1) {
				wantFault(t, what, err, lost.Stream, lost.Seq)
			}
		}
		_, err := verify(renumber(log), &audit.Verifier{})
		switch {
		case shown(b.log, lost.Stream, i+1):
			wantFault(t, what, err, lost.Stream, lost.Seq)
		case err != nil:
			t.Errorf("%s: got %v; nothing can show that, so the fault is wrong", what, err)
		}
		if _, err := verify(log, &audit.Verifier{Head: b.head(len(b.log))}); err == nil {
			t.Errorf("%s, head known: no fault", what)
		}
	}
}

// SPEC §8: "any … insertion".
func TestEveryDuplicateIsFoundWhereItIs(t *testing.T) {
	b := smallBook()
	for i, twice := range b.log {
		for at := i + 1; at <= len(b.log); at++ {
			log := renumber(slices.Insert(slices.Clone(b.log), at, twice))
			_, err := verify(log, &audit.Verifier{})
			wantFault(t, fmt.Sprintf("%s %d again at %d", twice.Stream, twice.Seq, at), err, twice.Stream, twice.Seq)
		}
	}
}

func TestEveryForgedRecordPutInIsFound(t *testing.T) {
	b := smallBook()
	for i := 1; i < len(b.log); i++ {
		for stream := range b.heads {
			forger := newBook()
			forger.log = slices.Clone(b.log[:i])
			for _, r := range forger.log {
				forger.heads[r.Stream] = r
			}
			if forger.heads[stream].Seq == 0 {
				continue // nothing to chain it to: it would begin the stream, and the honest first record would be the duplicate
			}
			ended := stream == "session/s3" && forger.heads[stream].Seq == b.heads[stream].Seq
			forged := forger.add(stream, `[{"type":"action.completed","id":"act-666"}]`)
			log := renumber(append(forger.log, b.log[i:]...))
			what := fmt.Sprintf("%s %d forged at %d", stream, forged.Seq, i)
			if _, err := verify(log, &audit.Verifier{}); shown(b.log, stream, i) || ended {
				wantFault(t, what, err, stream, forged.Seq)
			}
			if _, err := verify(log, &audit.Verifier{Head: b.head(len(b.log))}); err == nil {
				t.Errorf("%s, head known: no fault", what)
			}
		}
	}
}

// SPEC §8: "any … reorder".
func TestEveryPairOfSwappedRecordsIsFound(t *testing.T) {
	b := smallBook()
	for i := range b.log {
		for j := i + 1; j < len(b.log); j++ {
			log := slices.Clone(b.log)
			log[i], log[j] = log[j], log[i]
			what := fmt.Sprintf("records %d and %d swapped", i, j)
			if _, err := verify(log, &audit.Verifier{}); err == nil {
				t.Errorf("%s, with their positions: no fault", what)
			}
			renumber(log)
			if _, err := verify(log, &audit.Verifier{Head: b.head(len(b.log))}); err == nil {
				t.Errorf("%s, head known: no fault", what)
			}
			streams := []string{b.log[i].Stream, b.log[j].Stream}
			passed := slices.ContainsFunc(b.log[i+1:j], func(r audit.Stored) bool { return slices.Contains(streams, r.Stream) })
			if !passed && streams[0] != streams[1] {
				continue // no stream's own order has changed
			}
			_, err := verify(log, &audit.Verifier{})
			fault, ok := errors.AsType[*audit.Fault](err)
			if !ok || !slices.Contains(streams, fault.Stream) {
				t.Errorf("%s: got %v, want a fault in one of %v", what, err, streams)
			}
		}
	}
}

// SPEC §8: "A session's opening and its summary are records of the system stream, so a session that vanishes is missed."
func TestAnEndedSessionCutShortIsMissed(t *testing.T) {
	b := smallBook()
	for _, stream := range []string{"session/s1", "session/s2"} {
		all := b.heads[stream].Seq
		for keep := range all {
			log := slices.DeleteFunc(slices.Clone(b.log), func(r audit.Stored) bool { return r.Stream == stream && r.Seq > keep })
			_, err := verify(renumber(log), &audit.Verifier{})
			wantFault(t, fmt.Sprintf("%s keeps %d of %d records", stream, keep, all), err, stream, keep+1)
			if fault, _ := errors.AsType[*audit.Fault](err); keep == 0 && fault != nil && fault.What != "session is missing" {
				t.Errorf("%s is gone altogether and the fault says %q", stream, fault.What)
			}
		}
	}
}

func TestARunningSessionThatVanishesIsMissed(t *testing.T) {
	b := smallBook()
	log := slices.DeleteFunc(slices.Clone(b.log), func(r audit.Stored) bool { return r.Stream == "session/s4" })
	_, err := verify(renumber(log), &audit.Verifier{})
	wantFault(t, "session/s4 gone", err, "session/s4", 1)
	if err == nil || !strings.Contains(err.Error(), "session is missing") {
		t.Errorf("got %v, want it to say that the session is missing", err)
	}
}

// A forger who can compute hashes too: the record and the hash beside it agree, the next one's prev does not.
func TestARecordReplacedWithItsHashIsFound(t *testing.T) {
	b := smallBook()
	for i, r := range b.log {
		if !shown(b.log, r.Stream, i+1) {
			continue
		}
		log := copyLog(b.log)
		log[i].Body = []byte(strings.Replace(string(r.Body), `"via":"stdio"`, `"via":"clock"`, 1))
		log[i].Hash = audit.Leaf(log[i].Body)
		_, err := verify(log, &audit.Verifier{})
		// The last record of an ended session is covered by the summary only, which speaks of the session as a whole.
		wantFault(t, fmt.Sprintf("%s %d replaced", r.Stream, r.Seq), err, r.Stream, r.Seq, 0)
	}
}

// A forger who rewrites all that follows as well: only the session's summary, or a head, still tells.
func TestASessionRewrittenFromAnyRecordOnIsFound(t *testing.T) {
	b := smallBook()
	for i, r := range b.log {
		log := copyLog(b.log)
		log[i].Body = []byte(strings.Replace(string(r.Body), `"via":"stdio"`, `"via":"clock"`, 1))
		rechain(log)
		_, err := verify(log, &audit.Verifier{})
		if r.Stream == "session/s1" || r.Stream == "session/s2" {
			wantFault(t, fmt.Sprintf("%s rewritten from record %d", r.Stream, r.Seq), err, r.Stream, 0)
		}
		if _, err := verify(log, &audit.Verifier{Head: b.head(len(b.log))}); err == nil {
			t.Errorf("%s rewritten from record %d, head known: no fault", r.Stream, r.Seq)
		}
	}
}

func TestAFirstRecordHasNoRecordBeforeIt(t *testing.T) {
	b := newBook()
	b.heads["session/s"] = audit.Stored{Hash: audit.Leaf(nil)}
	b.create("s")
	_, err := verify(b.log, &audit.Verifier{})
	wantFault(t, "a parent for the first record", err, "session/s", 1)
}

// A head tells that something is gone, the hole that it left tells where.
func TestAHoleIsToldRatherThanTheHead(t *testing.T) {
	b := smallBook()
	last := len(b.log) - 2 // the agent's newest record; session/s4 goes on behind it
	log := slices.Delete(slices.Clone(b.log), last, last+1)
	for _, known := range []int{len(b.log), len(b.log) - 1} {
		_, err := verify(log, &audit.Verifier{Head: b.head(known)})
		wantFault(t, fmt.Sprintf("record %d gone, head of %d known", last, known), err, "session/s4", 3)
	}
}

func TestALogCutOffBelowAKnownHeadIsFound(t *testing.T) {
	b := smallBook()
	for n := range b.log {
		for known := n + 1; known <= len(b.log); known++ {
			_, err := verify(b.log[:n], &audit.Verifier{Head: b.head(known)})
			wantFault(t, fmt.Sprintf("%d records of %d known", n, known), err, "", 0)
		}
	}
}

// What the system stream says is compared with the sessions, whichever of them was changed.
func TestWhatTheSystemStreamSaysIsChecked(t *testing.T) {
	summary := func(b *book, session string, more uint64, root audit.Hash) {
		n := b.trees["session/"+session].Size + more
		b.add("system", fmt.Sprintf(`[{"type":"audit.committed","session":"%s","records":%d,"summary":"%s"}]`, session, n, root))
	}
	for _, c := range []struct {
		name   string
		write  func(b *book)
		stream string // empty: no fault
		seq    uint64
	}{
		{"created, and a crash before the opening", func(b *book) { b.create("s") }, "", 0},
		{"opened only then", func(b *book) { b.create("s"); b.act("s", 1); b.opened("s") }, "", 0},
		{"opened before it is created", func(b *book) { b.opened("s"); b.create("s") }, "", 0},
		{"never opened", func(b *book) { b.create("s"); b.act("s", 1) }, "session/s", 0},
		{"of several never opened, the first", func(b *book) {
			for _, s := range []string{"s", "r", "q", "p", "t", "u"} {
				b.create(s)
				b.act(s, 1)
			}
		}, "session/s", 0},
		{"ends behind odd quotes and braces", func(b *book) {
			b.create("s")
			b.opened("s")
			b.add("session/s", `[{"type":"x","said":"\" {[ \\"},{"type":"session.archived"}]`)
			b.commit("s")
		}, "", 0},
		{"opened and never created", func(b *book) { b.opened("s") }, "session/s", 1},
		{"opened twice", func(b *book) { b.create("s"); b.opened("s"); b.opened("s") }, "system", 2},
		{"does not begin with its creation", func(b *book) { b.opened("s"); b.act("s", 1) }, "session/s", 1},
		{"its creation nested in another event", func(b *book) { b.opened("s"); b.add("session/s", `[{"type":"x","y":{"type":"session.created"}}]`) }, "session/s", 1},
		{"its creation in a longer word", func(b *book) { b.opened("s"); b.add("session/s", `[{"type":"session.created_not"}]`) }, "session/s", 1},
		{"goes on after its end", func(b *book) { b.create("s"); b.opened("s"); b.archive("s"); b.act("s", 1) }, "session/s", 3},
		{"ended, and a crash before the summary", func(b *book) { b.create("s"); b.opened("s"); b.archive("s") }, "", 0},
		{"ended and summed up", func(b *book) { b.create("s"); b.opened("s"); b.archive("s"); b.commit("s") }, "", 0},
		{"goes on after its summary", func(b *book) { b.create("s"); b.opened("s"); b.archive("s"); b.commit("s"); b.act("s", 1) }, "session/s", 3},
		{"summed up twice", func(b *book) { b.create("s"); b.opened("s"); b.archive("s"); b.commit("s"); b.commit("s") }, "system", 3},
		{"summed up while it runs", func(b *book) { b.create("s"); b.opened("s"); b.commit("s") }, "session/s", 1},
		{"summed up and never opened", func(b *book) { b.create("s"); b.archive("s"); b.commit("s") }, "system", 1},
		{"a summary of one more", func(b *book) {
			b.create("s")
			b.opened("s")
			b.archive("s")
			summary(b, "s", 1, b.trees["session/s"].Root())
		}, "session/s", 3},
		{"a summary of one less", func(b *book) {
			b.create("s")
			b.opened("s")
			b.archive("s")
			summary(b, "s", ^uint64(0), b.trees["session/s"].Root())
		}, "session/s", 2},
		{"a summary with another root", func(b *book) {
			b.create("s")
			b.opened("s")
			b.archive("s")
			summary(b, "s", 0, audit.Leaf(nil))
		}, "session/s", 0},
		{"a summary without a root", func(b *book) {
			b.create("s")
			b.opened("s")
			b.add("system", `[{"type":"audit.committed","session":"s","records":1,"summary":""}]`)
		}, "system", 2},
		{"two events in one record", func(b *book) {
			b.create("s")
			b.create("r")
			b.add("system", `[{"type":"audit.opened","session":"s"},{"type":"x","z":[{}]},{"type":"audit.opened","session":"r"}]`)
			b.act("s", 1)
			b.act("r", 1)
		}, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBook()
			c.write(b)
			_, err := verify(b.log, &audit.Verifier{})
			if c.stream != "" {
				wantFault(t, c.name, err, c.stream, c.seq)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAPayloadMustBeWhatItsRecordCommitsTo(t *testing.T) {
	b := smallBook()
	first := slices.IndexFunc(b.log, func(r audit.Stored) bool { return r.Payload != nil })
	parts, err := audit.ParsePayload(b.log[first].Payload)
	if err != nil {
		t.Fatal(err)
	}
	args := parts[0]
	foreign := audit.Part{Name: "args", Salt: args.Salt, Bytes: []byte(`{"path":"elsewhere"}`)}
	renamed := audit.Part{Name: "result", Salt: args.Salt, Bytes: args.Bytes}
	for _, c := range []struct {
		name    string
		payload []byte
	}{
		{"another's", audit.AppendPayload(nil, []audit.Part{foreign})},
		{"one more", audit.AppendPayload(nil, []audit.Part{args, foreign})},
		{"under another name", audit.AppendPayload(nil, []audit.Part{renamed})},
		{"empty", []byte{}},
		{"cut short", b.log[first].Payload[:40]},
		{"of a newer version", append([]byte{2}, b.log[first].Payload[1:]...)},
	} {
		log := slices.Clone(b.log)
		log[first].Payload = c.payload
		_, err := verify(log, &audit.Verifier{})
		wantFault(t, c.name, err, b.log[first].Stream, b.log[first].Seq)
	}
}

func TestABlobMustBeWhatItsRecordCommitsTo(t *testing.T) {
	b := smallBook()
	for key, bytes := range b.blobs {
		for at := range bytes {
			changed := blobs{key: flipped(bytes, at)}
			if _, err := verify(b.log, &audit.Verifier{Blobs: changed}); err == nil {
				t.Errorf("byte %d of blob %s changed: no fault", at, key)
			}
		}
	}
}

type brokenBlobs struct{ error }

func (b brokenBlobs) Blob(audit.Hash) ([]byte, bool, error) { return nil, false, b.error }

func TestABlobThatCannotBeReadIsNotAFault(t *testing.T) {
	disk := errors.New("disk on fire")
	_, err := verify(smallBook().log, &audit.Verifier{Blobs: brokenBlobs{disk}})
	if _, isFault := errors.AsType[*audit.Fault](err); isFault || !errors.Is(err, disk) {
		t.Errorf("got %v, want the store's own error", err)
	}
}

func TestTheFirstFaultStays(t *testing.T) {
	b := smallBook()
	var v audit.Verifier
	first := v.Add(b.log[5])
	if first == nil {
		t.Fatal("a log that begins in the middle gave no fault")
	}
	if again := v.Add(b.log[0]); again != first {
		t.Errorf("next Add returned %v, want %v", again, first)
	}
	if _, again := v.Close(); again != first {
		t.Errorf("Close returned %v, want %v", again, first)
	}
}

func TestAVerifierIsUsedOnce(t *testing.T) {
	var v audit.Verifier
	if _, err := v.Close(); err != nil {
		t.Fatalf("an empty log: %v", err)
	}
	if err := v.Add(smallBook().log[0]); err == nil {
		t.Error("Add after Close gave no error")
	}
}

// With a head, a log is either the one that was recorded, or at fault: whatever is done to it.
func TestWithAHeadOnlyTheHonestLogVerifies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := smallBook()
		log := copyLog(b.log)
		at := func(label string) int { return rapid.IntRange(0, len(log)-1).Draw(t, label) }
		for range rapid.IntRange(1, 3).Draw(t, "edits") {
			switch rapid.SampledFrom([]string{"lose", "double", "move", "rewrite", "forge"}).Draw(t, "edit") {
			case "lose":
				i := at("i")
				log = slices.Delete(log, i, i+1)
			case "double":
				log = slices.Insert(log, at("to"), log[at("i")])
			case "move":
				i, j := at("i"), at("j")
				log[i], log[j] = log[j], log[i]
			case "rewrite":
				i := at("i")
				log[i].Body = []byte(strings.Replace(string(log[i].Body), `"via":"stdio"`, `"via":"clock"`, 1))
			case "forge":
				log = rechain(log)
			}
		}
		renumber(log)
		same := slices.EqualFunc(log, b.log, func(x, y audit.Stored) bool { return string(x.Body) == string(y.Body) && x.Hash == y.Hash })
		_, err := verify(log, &audit.Verifier{Head: b.head(len(b.log))})
		if same != (err == nil) {
			t.Fatalf("log as recorded: %v; verifier: %v", same, err)
		}
	})
}

func TestAHeadHasOneText(t *testing.T) {
	h := audit.Head{Records: 12, Root: audit.Leaf([]byte("x"))}
	if back, err := audit.ParseHead(h.String()); err != nil || back != h {
		t.Errorf("%s came back as %s, %v", h, back, err)
	}
	root := h.Root.String()
	for _, bad := range []string{
		"", ":", "12", "12:", ":" + root, "012:" + root, "+12:" + root, "-1:" + root, "0x1:" + root, "1_2:" + root, " 12:" + root, "12: " + root,
		"12:" + root + "\n", "12:" + strings.ToUpper(root), "12:" + root[:62], "18446744073709551616:" + root, "0:" + root,
	} {
		if _, err := audit.ParseHead(bad); !errors.Is(err, audit.ErrHead) {
			t.Errorf("ParseHead(%q) gave %v, want ErrHead", bad, err)
		}
	}
	empty := audit.Head{Root: (&audit.Tree{}).Root()}
	if back, err := audit.ParseHead(empty.String()); err != nil || back != empty {
		t.Errorf("the head of no records came back as %s, %v", back, err)
	}
}
