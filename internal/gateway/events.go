package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// An eventStream reads messages from server-sent events (HTML Living Standard §9.2). It is for one goroutine.
type eventStream struct {
	r      *bufio.Reader
	left   *int64        // bytes that may still come; nil: no end
	lastID string        // of the last event that had one
	retry  time.Duration // as the server asked for it; zero: it did not
	events int           // read so far
}

func newEventStream(r io.Reader, left *int64) *eventStream {
	return &eventStream{r: bufio.NewReaderSize(r, 16<<10), left: left}
}

// next returns the data of the next event of type message that has any. io.EOF: the stream has ended.
func (s *eventStream) next() ([]byte, error) {
	var data []byte
	kind, has := "", false
	for {
		line, err := s.line(maxLineBytes - len(data))
		if err != nil {
			return nil, err // an event without its blank line is none
		}
		if len(line) == 0 {
			s.events++
			if has && len(data) > 0 && (kind == "" || kind == "message") {
				return data, nil
			}
			data, kind, has = nil, "", false
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "data":
			if has {
				data = append(data, '\n')
			}
			data, has = append(data, value...), true
		case "event":
			kind = string(value)
		case "id":
			if len(value) <= maxEventIDBytes && !strings.ContainsAny(string(value), "\x00\r\n") {
				s.lastID = string(value)
			}
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
				s.retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
}

// line reads a line without its end.
func (s *eventStream) line(bound int) ([]byte, error) {
	if s.left != nil && *s.left < int64(bound) {
		bound = int(max(*s.left, 0))
	}
	line, err := boundedLine(s.r, bound)
	if s.left != nil {
		if *s.left -= int64(len(line)) + 1; *s.left <= 0 || errors.Is(err, errLineTooLong) && *s.left < maxLineBytes {
			return nil, errCallTooLong
		}
	}
	switch {
	case errors.Is(err, errLineTooLong):
		return nil, fmt.Errorf("%w: %w", errGarbage, err)
	case err != nil:
		return nil, err
	}
	return bytes.TrimSuffix(line, []byte("\r")), nil
}
