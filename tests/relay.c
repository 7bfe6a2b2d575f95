/* The least that a proxy does: reads what comes and writes it to the other side, one thread, one connection for each, no HTTP.
 * What tests/sidecar_cost.py measures of it is what the system calls of a proxy cost on a machine.
 *
 *     cc -O2 -o /tmp/relay tests/relay.c && /tmp/relay PORT MEMBER_PORT & tests/sidecar_cost.py 127.0.0.1:MEMBER_PORT 127.0.0.1:PORT $!
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 4096 };
static int other[MOST];

static void watch(int epoll, int socket, unsigned events) {
    struct epoll_event event = {.events = events, .data.fd = socket};
    int one = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &event) != 0) exit(1);
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, there = here;
    here.sin_port = htons(atoi(arguments[1]));
    there.sin_port = htons(atoi(arguments[2]));
    int listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0);
    if (bind(listener, (void *)&here, sizeof here) != 0 || listen(listener, 100) != 0) return 1;
    watch(epoll, listener, EPOLLIN);
    static char bytes[65536];
    struct epoll_event events[64];
    for (;;) {
        int ready = epoll_wait(epoll, events, 64, -1);
        for (int at = 0; at < ready; at++) {
            int from = events[at].data.fd;
            if (from == listener) {
                int client = accept(listener, 0, 0), member = socket(AF_INET, SOCK_STREAM, 0);
                if (client >= MOST || member >= MOST || connect(member, (void *)&there, sizeof there) != 0) return 1;
                other[client] = member;
                other[member] = client;
                watch(epoll, client, EPOLLIN | EPOLLET);
                watch(epoll, member, EPOLLIN | EPOLLET);
                continue;
            }
            ssize_t read_bytes = read(from, bytes, sizeof bytes);
            if (read_bytes <= 0) {
                close(other[from]);
                close(from);
            } else if (write(other[from], bytes, read_bytes) != read_bytes) {
                return 1;
            }
        }
    }
}
