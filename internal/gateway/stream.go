package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// maxPendingBytes bounds what waits to be written to one peer. A peer that reads so slowly has its connection ended.
const maxPendingBytes = 64 << 20

var (
	errLineTooLong = errors.New("the line is longer than 16 MiB")
	errClosed      = errors.New("we have closed the connection")
	errStalled     = errors.New("the peer does not read what it is sent: 64 MiB wait")
)

// A stream is lines over a reader and a writer: one line read ahead, one written at a time, both bounded.
// It is a handle; its methods are safe for concurrent use but for next.
type stream struct {
	r        io.Reader
	w        io.Writer
	skipLong bool // go on behind a line that is too long

	lines  chan readLine
	turn   chan struct{}             // holds one token while a line is written
	atOnce func([]byte) (int, error) // writes what w takes without waiting; nil: that cannot be had
	out    chan *outgoing            // what is left of the line whose turn it is
	done   chan struct{}             // closed once, by end

	mu      sync.Mutex
	pending int   // bytes handed to send and neither written nor dropped
	cause   error // why the stream ended; set before done is closed

	pumps sync.WaitGroup
}

type readLine struct {
	text []byte
	err  error
}

// An outgoing line is written by its sender as far as the peer takes it at once, and from there on by the stream's writer: what
// a peer that does not read would hold up is not its sender. It is dropped by its sender while it has not been begun.
type outgoing struct {
	text  []byte
	msg   jsonrpc.Message // what text says; nil: nobody asks
	id    jsonrpc.ID      // of a request that wants an answer
	state atomic.Int32
	rest  []byte        // of text and its newline, for the writer
	done  chan struct{} // closed when the writer is done with it; nil: the writer never had it
	err   error         // valid once done is closed
}

// States of an outgoing line. Only what is unsent or dropped was certainly not seen whole by the peer.
const (
	queued int32 = iota
	writing
	sent
	unsent  // writing failed before the last byte of the message
	dropped // its sender gave up before it was begun
)

// newStream starts the two goroutines that own r and w; end ends them. A Read or Write under way ends only if closing r or w
// ends it, as it does for pipes and sockets; a process's own stdin may keep its goroutine until the process ends.
func newStream(r io.Reader, w io.Writer, skipLong bool) *stream {
	s := &stream{r: r, w: w, skipLong: skipLong, atOnce: writeAtOnce(w),
		lines: make(chan readLine), turn: make(chan struct{}, 1), out: make(chan *outgoing), done: make(chan struct{})}
	s.pumps.Go(s.readLines)
	s.pumps.Go(s.writeLines)
	return s
}

// next returns the next line that is not blank, without its newline. io.EOF: the peer has ended the stream.
func (s *stream) next(ctx context.Context) ([]byte, error) {
	select {
	case l := <-s.lines:
		return l.text, l.err
	case <-s.done:
		return nil, io.EOF
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// send writes a line and its newline. It returns when the line is written or can no longer be, or when ctx ends.
func (s *stream) send(ctx context.Context, o *outgoing) error {
	if ctx.Err() != nil {
		o.state.Store(dropped)
		return ctx.Err()
	}
	if !s.reserve(len(o.text)) {
		s.end(errStalled)
		o.state.Store(dropped)
		return errStalled
	}
	select {
	case s.turn <- struct{}{}:
	case <-s.done:
		return s.drop(o, s.reason())
	case <-ctx.Done():
		return s.drop(o, ctx.Err())
	}
	o.state.Store(writing)
	o.rest = append(o.text, '\n')
	if s.atOnce != nil {
		n, err := s.atOnce(o.rest)
		if o.rest = o.rest[n:]; len(o.rest) == 0 || err != nil {
			return s.written(o, err)
		}
	}
	return s.handOver(ctx, o)
}

// handOver has the writer write what is left of a line. Whoever does has the turn, so the writer is free.
func (s *stream) handOver(ctx context.Context, o *outgoing) error {
	o.done = make(chan struct{})
	select {
	case s.out <- o:
	case <-s.done:
		return s.written(o, s.reason())
	}
	select {
	case <-o.done:
		return o.err
	case <-s.done:
		return s.reason()
	case <-ctx.Done():
		return ctx.Err() // it is being written; the writer gives bytes and turn back
	}
}

// written notes how far a line came, which ends its turn, and ends a stream that cannot be written to. A message cut short is not a
// JSON value, so its reader cannot have acted on it.
func (s *stream) written(o *outgoing, err error) error {
	if err != nil && len(o.rest) > 1 { // more than the newline
		o.state.Store(unsent)
	} else {
		o.state.Store(sent)
	}
	s.release(o)
	<-s.turn
	if err == nil {
		return nil
	}
	s.end(err)
	return s.reason() // which may have been there first
}

func (s *stream) reserve(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending+n > maxPendingBytes {
		return false
	}
	s.pending += n
	return true
}

// drop gives up a line nobody has begun to write.
func (s *stream) drop(o *outgoing, why error) error {
	o.state.Store(dropped)
	s.release(o)
	return why
}

func (s *stream) release(o *outgoing) {
	s.mu.Lock()
	s.pending -= len(o.text)
	s.mu.Unlock()
}

// end ends the stream for the first reason given and closes both sides. It does not wait.
func (s *stream) end(why error) {
	s.mu.Lock()
	first := s.cause == nil
	if first {
		s.cause = why
		close(s.done)
	}
	s.mu.Unlock()
	if !first {
		return
	}
	for _, side := range []any{s.w, s.r} {
		if c, ok := side.(io.Closer); ok {
			_ = c.Close() // closing is how the other side learns of it; there is nobody left to tell that it failed
		}
	}
}

// reason returns why the stream ended, or nil while it has not.
func (s *stream) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

func (s *stream) readLines() {
	br := bufio.NewReaderSize(s.r, 64<<10)
	for {
		text, err := boundedLine(br, maxLineBytes)
		if len(bytes.TrimSpace(text)) == 0 && err == nil {
			continue
		}
		if errors.Is(err, io.EOF) && len(bytes.TrimSpace(text)) > 0 {
			err = nil // a last line without its newline; the next read says EOF again
		}
		select {
		case s.lines <- readLine{text, err}:
		case <-s.done:
			return
		}
		switch {
		case errors.Is(err, errLineTooLong) && s.skipLong:
			if skipLine(br) != nil {
				continue // the next read says what happened
			}
		case err != nil:
			return
		}
	}
}

// boundedLine reads up to the next newline. It holds at most bound bytes and the reader's buffer; a longer line is
// errLineTooLong, with the rest of it unread.
func boundedLine(br *bufio.Reader, bound int) ([]byte, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		if len(line)+len(part) > bound+1 {
			if errors.Is(err, bufio.ErrBufferFull) {
				return nil, errLineTooLong
			}
			// The newline, or the end, is already consumed: say so by an empty rest.
			return nil, errors.Join(errLineTooLong, br.UnreadByte())
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return line, err
		}
	}
}

// skipLine reads past the next newline, holding none of it.
func skipLine(br *bufio.Reader) error {
	for {
		switch _, err := br.ReadSlice('\n'); {
		case err == nil:
			return nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

func (s *stream) writeLines() {
	for {
		select {
		case o := <-s.out:
			n, err := s.w.Write(o.rest)
			o.rest = o.rest[n:]
			o.err = s.written(o, err)
			close(o.done)
			if err != nil {
				return
			}
		case <-s.done:
			return
		}
	}
}
