package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
)

// Lines are written by their senders where the peer takes them, and by the stream's writer where it does not: however that falls,
// each arrives whole, and a sender that gives up does not take a line back that was begun.
func TestLinesArriveWholeHoweverSlowlyTheyAreRead(t *testing.T) {
	pipe := func() (io.ReadCloser, io.WriteCloser) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		return r, w
	}
	for name, ends := range map[string]func() (io.ReadCloser, io.WriteCloser){
		"a pipe of the system's":   pipe,
		"one that no one can poll": func() (io.ReadCloser, io.WriteCloser) { r, w := io.Pipe(); return r, w },
		"a connection in memory":   func() (io.ReadCloser, io.WriteCloser) { r, w := net.Pipe(); return r, w },
	} {
		t.Run(name, func(t *testing.T) {
			r, w := ends()
			in, inW := io.Pipe()
			s := newStream(in, w, true)
			const senders, each = 4, 20
			var sending sync.WaitGroup
			for i := range senders {
				sending.Go(func() {
					for n := range each {
						if err := s.send(t.Context(), &outgoing{text: bytes.Repeat([]byte{byte('a' + i)}, 1+n*10_000)}); err != nil {
							t.Error(err)
						}
					}
				})
			}
			br := bufio.NewReaderSize(r, 128)
			seen := map[byte]int{}
			for range senders * each {
				line, err := boundedLine(br, maxLineBytes)
				if err != nil || len(line) != 1+seen[line[0]]*10_000 || len(bytes.Trim(line, string(line[:1]))) > 0 {
					t.Fatalf("%d bytes, %v", len(line), err)
				}
				seen[line[0]]++
			}
			sending.Wait()
			ctx, give := context.WithCancel(t.Context())
			up := make(chan error)
			long, late := &outgoing{text: make([]byte, 1<<20)}, &outgoing{text: []byte("late")}
			go func() { up <- s.send(ctx, long) }()
			if b, err := br.ReadByte(); err != nil || b != 0 { // it is begun
				t.Fatal(b, err)
			}
			go func() { up <- s.send(ctx, late) }()
			give()
			for range 2 {
				if err := <-up; !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
			if late.state.Load() != dropped {
				t.Errorf("a line that was not begun: state %d", late.state.Load())
			}
			line, err := boundedLine(br, maxLineBytes)
			if err != nil || len(line) != 1<<20-1 || slices.Max(line) != 0 {
				t.Errorf("the line that was begun: %d bytes of it, %v", len(line)+1, err)
			}
			s.end(errClosed)
			if err := s.send(t.Context(), &outgoing{text: []byte("x")}); !errors.Is(err, errClosed) {
				t.Errorf("after the end: %v", err)
			}
			_, _ = r.Close(), inW.Close()
			s.pumps.Wait()
		})
	}
}
