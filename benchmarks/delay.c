/*
 * A TCP proxy on loopback that is as far away as it is told, for kernels without `tc netem`.
 *
 *     delay HOST PORT RTT_MS BYTES_PER_S        (IPv4 HOST; 0 B/s: as fast as it goes)
 *
 * Prints its own port.  Ends with its standard input, which must be a pipe, or with its parent.
 *
 * What goes through arrives half a round trip after it came, each way.  TCP's handshake is done by
 * the kernel before anybody is asked, so a connection's first bytes wait for one round trip more.
 * A rate holds for each connection and direction.
 *
 * Bytes are moved by splice(2) and never copied: sockets -> a pipe for each piece, which waits until
 * it is due -> the other socket.  Several GB/s, and the cores stay free for what is measured.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL    /* all times are ns */
#define NEVER INT64_MAX
#define PIECE (1 << 20)        /* bytes at most that one pipe takes */
#define PIPE_BYTES (512 << 10) /* slots of 4 KiB or more; unprivileged users have 64 MiB in all */
#define WINDOW (16 << 20)      /* bytes under way in one direction, as a TCP window would allow */
#define TICK (SECOND / 1000)   /* a limited rate moves what it may in so much time at once */
#define RETRY (SECOND / 1000)  /* when descriptors run out */

struct piece {
    struct piece *next;
    int pipe[2];
    size_t length;
    int64_t due;
};

struct flow { /* one direction of a connection */
    int from, to;
    int readable, writable; /* until EAGAIN says otherwise: the events are edge-triggered */
    struct piece *first, *last;
    size_t under_way;
    int64_t link_free; /* when the last byte taken so far has passed the link's narrow end */
    int64_t end;       /* when the end of `from` arrives; NEVER while it is open */
    int is_reset, is_done;
};

struct connection {
    struct connection *next;
    int client, server;
    int64_t established; /* when the handshake would have ended */
    struct flow up, down;
};

static int64_t one_way, now;
static double rate; /* bytes/s, 0: any */
static struct sockaddr_in target;
static struct connection *connections;
static struct piece *spare;
static int epoll;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t clock_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* --- pieces ------------------------------------------------------------------------------- */

static struct piece *new_piece(void)
{
    struct piece *piece = spare;
    if (piece) {
        spare = piece->next;
    } else {
        piece = malloc(sizeof *piece);
        if (!piece || pipe2(piece->pipe, O_NONBLOCK | O_CLOEXEC)) {
            free(piece);
            return NULL;
        }
        fcntl(piece->pipe[1], F_SETPIPE_SZ, PIPE_BYTES); /* refused: smaller pieces */
    }
    piece->next = NULL;
    piece->length = 0;
    return piece;
}

static void spare_piece(struct piece *piece)
{
    if (piece->length) { /* a pipe that holds bytes is of no use any more */
        close(piece->pipe[0]);
        close(piece->pipe[1]);
        free(piece);
        return;
    }
    piece->next = spare;
    spare = piece;
}

/* --- flows -------------------------------------------------------------------------------- */

static void end_of(struct flow *flow, int is_reset)
{
    flow->readable = 0;
    flow->is_reset = is_reset;
    flow->end = later(now, flow->link_free) + one_way;
}

/* Take what has come, as far as rate and window allow.  Return when to try again. */
static int64_t take(struct flow *flow, int64_t established)
{
    size_t most = rate ? (size_t)(rate * TICK / SECOND) + 1 : PIECE;
    while (flow->readable && flow->end == NEVER && flow->under_way < WINDOW) {
        if (rate && flow->link_free > now + TICK)
            return flow->link_free - TICK;
        struct piece *piece = new_piece();
        if (!piece)
            return now + RETRY;
        ssize_t got = splice(flow->from, NULL, piece->pipe[1], NULL, most,
                             SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (got <= 0) {
            spare_piece(piece);
            if (got == 0)
                end_of(flow, 0);
            else if (errno == EAGAIN)
                flow->readable = 0;
            else
                end_of(flow, 1);
            break;
        }
        flow->link_free = later(later(now, established), flow->link_free);
        if (rate)
            flow->link_free += (int64_t)(got / rate * SECOND);
        piece->length = got;
        piece->due = flow->link_free + one_way;
        if (flow->last)
            flow->last->next = piece;
        else
            flow->first = piece;
        flow->last = piece;
        flow->under_way += got;
    }
    return NEVER;
}

/* Hand over what is due, as far as the receiver takes it. */
static void give(struct flow *flow)
{
    struct piece *piece;
    while ((piece = flow->first) && flow->writable && piece->due <= now) {
        ssize_t put = splice(piece->pipe[0], NULL, flow->to, NULL, piece->length,
                             SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (put < 0 && errno == EAGAIN) {
            flow->writable = 0;
            return;
        }
        if (put <= 0) { /* the receiver is gone */
            flow->is_reset = 1;
            flow->end = now;
            return;
        }
        piece->length -= put;
        flow->under_way -= put;
        if (piece->length)
            continue;
        flow->first = piece->next;
        if (!flow->first)
            flow->last = NULL;
        spare_piece(piece);
    }
}

/* Move one direction on; return when it wants to be looked at again. */
static int64_t move(struct flow *flow, int64_t established)
{
    give(flow); /* makes room in the window */
    int64_t again = take(flow, established);
    if (flow->first && flow->writable)
        again = earlier(again, flow->first->due);
    if (flow->end == NEVER || flow->is_done)
        return again;
    if (flow->end > now)
        return earlier(again, flow->end);
    if (!flow->first && !flow->is_reset) {
        shutdown(flow->to, SHUT_WR);
        flow->is_done = 1;
    }
    return again;
}

static void drop(struct flow *flow)
{
    struct piece *piece;
    while ((piece = flow->first)) {
        flow->first = piece->next;
        spare_piece(piece);
    }
}

/* Move all connections on, close those that are over.  Return when something is due next. */
static int64_t move_all(void)
{
    int64_t next = NEVER;
    for (struct connection **link = &connections; *link;) {
        struct connection *connection = *link;
        struct flow *up = &connection->up, *down = &connection->down;
        next = earlier(next, move(up, connection->established));
        next = earlier(next, move(down, connection->established));
        int is_reset = (up->is_reset && up->end <= now) || (down->is_reset && down->end <= now);
        if (is_reset || (up->is_done && down->is_done)) {
            drop(up);
            drop(down);
            close(connection->client);
            close(connection->server);
            *link = connection->next;
            free(connection);
        } else {
            link = &connection->next;
        }
    }
    return next;
}

/* --- connections -------------------------------------------------------------------------- */

/* The lowest bit of an event's pointer tells the ends apart: 0 client, 1 server. */
static void watch(int fd, struct connection *connection, uintptr_t end)
{
    int one = 1;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
    event.data.ptr = (void *)((uintptr_t)connection | end);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
        die("epoll_ctl");
}

static void accept_all(int listener)
{
    int client;
    while ((client = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct connection *connection = calloc(1, sizeof *connection);
        /* On loopback it is answered at once, one way or the other. */
        if (server < 0 || !connection || connect(server, (void *)&target, sizeof target)) {
            close(client);
            if (server >= 0)
                close(server);
            free(connection);
            continue;
        }
        *connection = (struct connection){
            .next = connections,
            .client = client,
            .server = server,
            .established = now + 2 * one_way,
            .up = {.from = client, .to = server, .end = NEVER},
            .down = {.from = server, .to = client, .end = NEVER},
        };
        connections = connection;
        watch(client, connection, 0);
        watch(server, connection, 1);
    }
}

static void note(struct epoll_event *event)
{
    struct connection *connection = (void *)((uintptr_t)event->data.ptr & ~(uintptr_t)1);
    int is_server = (uintptr_t)event->data.ptr & 1;
    struct flow *from_here = is_server ? &connection->down : &connection->up;
    struct flow *to_here = is_server ? &connection->up : &connection->down;
    if (event->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        from_here->readable = 1;
    if (event->events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        to_here->writable = 1;
}

static int listen_on_loopback(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0 || bind(listener, (void *)&address, length) || listen(listener, 1024))
        die("listen");
    if (getsockname(listener, (void *)&address, &length))
        die("getsockname");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void set_up(char **arguments)
{
    struct rlimit files;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a parent that died before has closed our input */
    prctl(PR_SET_TIMERSLACK, 1);
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    target.sin_family = AF_INET;
    target.sin_port = htons(atoi(arguments[1]));
    if (inet_pton(AF_INET, arguments[0], &target.sin_addr) != 1) {
        fprintf(stderr, "%s is no IPv4 address\n", arguments[0]);
        exit(2);
    }
    one_way = (int64_t)(atof(arguments[2]) / 2 * SECOND / 1000);
    rate = atof(arguments[3]);
}

int main(int count, char **arguments)
{
    static char listening, input; /* their addresses stand for what is no connection */
    if (count != 5) {
        fprintf(stderr, "usage: delay HOST PORT RTT_MS BYTES_PER_S\n");
        return 2;
    }
    set_up(arguments + 1);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on_loopback();
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listening};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event))
        die("epoll_ctl");
    event.data.ptr = &input;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event))
        die("standard input");
    for (;;) {
        struct epoll_event events[256];
        now = clock_now();
        int64_t next = move_all();
        int64_t wait = next == NEVER ? 3600 * SECOND : later(next - clock_now(), 0);
        struct timespec timeout = {.tv_sec = wait / SECOND, .tv_nsec = wait % SECOND};
        int ready = epoll_pwait2(epoll, events, 256, &timeout, NULL);
        now = clock_now();
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr == &listening)
                accept_all(listener);
            else if (events[i].data.ptr == &input)
                return 0;
            else
                note(&events[i]);
        }
    }
}
