package sqlitelog

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/eventlogtest"
)

// A process that is killed while it appends must leave every record that it acknowledged.
func TestKilledProcessLeavesWhatItAcknowledged(t *testing.T) {
	for _, after := range []int{1, 50, 411, 1500} {
		t.Run(fmt.Sprint("after ", after, " records"), func(t *testing.T) {
			dir := t.TempDir()
			cmd := child(t, "append", dir)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(out)
			var said []said
			for range after {
				said = append(said, readSaid(t, lines)...)
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			for { // what it said until it died
				more := readSaid(t, lines)
				if more == nil {
					break
				}
				said = append(said, more...)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("it was not killed")
			}
			s := open(t, dir)
			n := compare(t, s, said)
			closeStore(t, s)
			t.Logf("%d acknowledged, all there", n["acknowledged, there"])
		})
	}
}

// What a child said of a record.
type said struct {
	saw, stream string
	seq         uint64
	hash        string
	durable     bool
}

// readSaid reads one line, nil at the end. A torn last line was not said.
func readSaid(t testing.TB, r *bufio.Reader) []said {
	t.Helper()
	line, err := r.ReadString('\n')
	if err == io.EOF {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return []said{parseSaid(t, line)}
}

func parseSaid(t testing.TB, line string) (s said) {
	t.Helper()
	if _, err := fmt.Sscanf(line, "%s %s %d %s durable=%t", &s.saw, &s.stream, &s.seq, &s.hash, &s.durable); err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
	return s
}

// compare verifies the log and holds it to what was said of its records: acknowledged, there; error, gone. It counts them.
func compare(t testing.TB, s eventlog.Store, all []said) map[string]int {
	t.Helper()
	log := eventlogtest.Verify(t, s)
	n := map[string]int{}
	for _, a := range all {
		has := "gone"
		if recs := log[a.stream]; uint64(len(recs)) >= a.seq && recs[a.seq-1].Hash.String() == a.hash {
			has = "there"
		}
		n[a.saw+", "+has]++
		if a.saw == "acknowledged" && has == "gone" || a.saw == "error" && has == "there" {
			t.Errorf("%s %d: %s, and is %s", a.stream, a.seq, a.saw, has)
		}
	}
	return n
}

func parseAll(t testing.TB, text string) (all []said) {
	t.Helper()
	for line := range strings.Lines(text) {
		all = append(all, parseSaid(t, line))
	}
	return all
}
